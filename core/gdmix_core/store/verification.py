"""Comparing what a store holds with what the seal says it must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from gdmix_core.errors import StoreCorrupt
from gdmix_core.store.publication import CHECKSUM_MASK, Seal, StoredPairs
from gdmix_core.store.record import fault_text, signed


@dataclass(slots=True)
class _Tally:
    """Entities and digests of one coordinate, as read back."""

    entities: int = 0
    checksum: int = 0
    seen: list[npt.NDArray[np.int64]] = field(default_factory=list)


def verify_records(seal: Seal, scan: Callable[[], Iterator[StoredPairs]]) -> None:
    """Check every record, and counts and checksums by coordinate.

    Memory stays flat. Only when there seem to be too many entities, which happens when a store's iteration
    repeats itself, a second pass remembers a hash of every key (8 bytes an entity).

    Args:
        seal: what must be there.
        scan: starts reading all records back.

    Raises:
        StoreCorrupt: something is wrong; the message names coordinate and entity or counts.
    """
    found = _tally(seal, scan(), distinct=False)
    if any(found[name].entities > expected.entities for name, expected in seal.coordinates.items()):
        found = _tally(seal, scan(), distinct=True)
    for name, expected in seal.coordinates.items():
        tally = found[name]
        if tally.entities != expected.entities:
            raise StoreCorrupt(
                f"version {seal.version} of model {seal.model!r}: coordinate {name!r} holds {tally.entities} "
                f"entities, its seal says {expected.entities}"
            )
        if tally.checksum & CHECKSUM_MASK != expected.checksum:
            raise StoreCorrupt(
                f"version {seal.version} of model {seal.model!r}: the records of coordinate {name!r} are "
                "sound, but not those that were written (their checksums add up to something else)"
            )


def _tally(seal: Seal, batches: Iterable[StoredPairs], *, distinct: bool) -> dict[str, _Tally]:
    found = {name: _Tally() for name in seal.coordinates}
    for pairs in batches:
        if pairs.coordinate not in found:
            raise StoreCorrupt(
                f"version {seal.version} of model {seal.model!r} holds entities of coordinate "
                f"{pairs.coordinate!r}, which its seal does not name"
            )
        tally = found[pairs.coordinate]
        kept = _new_ones(tally, pairs) if distinct else pairs
        tally.entities += len(kept.keys)
        tally.checksum += _checked_digest(seal, kept)
    return found


def _new_ones(tally: _Tally, pairs: StoredPairs) -> StoredPairs:
    """Leave out keys that an earlier batch, or this one, has shown already."""
    hashes = np.fromiter(map(hash, pairs.keys), np.int64, len(pairs.keys))
    fresh = np.zeros(len(hashes), np.bool_)
    fresh[np.unique(hashes, return_index=True)[1]] = True
    for earlier in tally.seen:
        fresh &= ~np.isin(hashes, earlier)
    tally.seen.append(hashes[fresh])
    if len(tally.seen) > 16:
        tally.seen = [np.concatenate(tally.seen)]
    chosen = np.flatnonzero(fresh).tolist()
    return StoredPairs(
        pairs.coordinate,
        list(map(pairs.keys.__getitem__, chosen)),
        list(map(pairs.records.__getitem__, chosen)),
        pairs.prefix_bytes,
    )


def _checked_digest(seal: Seal, pairs: StoredPairs) -> int:
    """Check the records of a batch and return the sum of their digests."""
    from gdmix_core.store import kernels

    records = [record if record is not None else b"" for record in pairs.records]
    pieces = list(chain.from_iterable(zip(pairs.keys, records, strict=True)))
    bounds = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=bounds[1:])
    data = np.frombuffer(bytearray().join(pieces), np.uint8)
    digest, fault, number = kernels.verify(data, bounds, pairs.prefix_bytes, signed(seal.schema))
    if fault:
        entity = pairs.keys[number][pairs.prefix_bytes :].decode(errors="replace")
        raise StoreCorrupt(
            f"version {seal.version} of model {seal.model!r}, coordinate {pairs.coordinate!r}: the record of "
            f"entity {entity!r} {fault_text(fault)}"
        )
    return digest
