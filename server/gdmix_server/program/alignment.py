"""Whether the rows of all sources are the same ones: told before any training, with counts and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gdmix_core.config import ExternalEffect, JobConfig
from gdmix_core.errors import DataError
from gdmix_core.tasks import Role, score_source
from gdmix_server.program.prepared import ROLES, Shards
from gdmix_server.program.steps import Steps
from gdmix_server.state.model import Report

_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Uids:
    """How many uids, and some of them."""

    number: int
    examples: tuple[int, ...]

    def __str__(self) -> str:
        more = ", …" if self.number > len(self.examples) else ""
        return f"uid {', '.join(map(str, self.examples))}{more}"


def report_unmatched(config: JobConfig, shards: Mapping[Role, Shards]) -> Steps[None]:
    """Compare the uids of every further source with those of `data`.

    Raises:
        DataError: A row is in one source and not in another; scores may lack rows where the config says that
            those count 0, and may hold rows that the data do not have.
    """
    problems: list[str] = []
    notices: list[str] = []
    for role in ROLES:
        for name in config.data.sources:
            missing, extra = _total(shards[role], name, "missing"), _total(shards[role], name, "extra")
            if missing.number:
                problems.append(
                    f"data.sources.{name}: {missing.number:,} {role} rows of data are not in it ({missing})"
                )
            if extra.number:
                problems.append(
                    f"data.sources.{name}: {extra.number:,} of its {role} rows are not in data ({extra})"
                )
        for name, coordinate in config.coordinates.items():
            if isinstance(coordinate, ExternalEffect):
                source = score_source(name)
                missing, extra = (
                    _total(shards[role], source, "missing"),
                    _total(shards[role], source, "extra"),
                )
                if missing.number:
                    text = (
                        f"{name}: {missing.number:,} of {sum(shards[role].rows):,} {role} rows have no score"
                    )
                    if coordinate.missing == "error":
                        problems.append(f"{text} ({missing}); set missing: zero to count them 0")
                    else:
                        notices.append(f"{text}; they count 0 ({missing})")
                if extra.number:
                    notices.append(f"{name}: {extra.number:,} {role} scores belong to no row ({extra})")
    if problems:
        raise DataError("\n  ".join(["the rows of the sources are not the same ones:", *problems]))
    for notice in notices:
        yield Report(notice=notice)


def _total(shards: Shards, source: str, kind: Literal["missing", "extra"]) -> _Uids:
    found = [one for result in shards.results for one in result.unmatched if one.source == source]
    examples = [uid for one in found for uid in getattr(one, f"{kind}_examples")]
    return _Uids(sum(getattr(one, kind) for one in found), tuple(sorted(examples)[:_NAMED]))
