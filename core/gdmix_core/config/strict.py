"""What all config models share: strictness, names, switches."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Strict(BaseModel):
    """Base of every config model: frozen, unknown keys are errors, no silent coercion of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Switch = Annotated[bool, Field(strict=True)]


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


OneOrMany: Final = BeforeValidator(_one_or_many)
"""One string stands for a list of one."""
Strings = Annotated[tuple[str, ...], OneOrMany]


def check_name(name: str, what: str) -> str:
    """Return `name` when it can be part of a path and of a store key, else raise ValueError."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(
            f"{what} {name!r} is not a name: allowed are 1 to 64 letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit"
        )
    return name
