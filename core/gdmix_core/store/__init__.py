"""Versioned coefficients in Redis or LMDB: `open_store(url)` and the values that go in and out."""

from __future__ import annotations

from gdmix_core.publish_ticket import PublishTicket
from gdmix_core.store.contract import CoefficientStore
from gdmix_core.store.control import VersionState
from gdmix_core.store.opening import open_store
from gdmix_core.store.publication import (
    BlobSeal,
    CoordinateSeal,
    EntityRecords,
    Pointers,
    PublishedPart,
    Seal,
    VersionInfo,
)
from gdmix_core.store.record import CoefficientBlock, DecodedRecords, ElementType, Record, decode, decode_many

__all__ = [
    "BlobSeal",
    "CoefficientBlock",
    "CoefficientStore",
    "CoordinateSeal",
    "DecodedRecords",
    "ElementType",
    "EntityRecords",
    "Pointers",
    "PublishTicket",
    "PublishedPart",
    "Record",
    "Seal",
    "VersionInfo",
    "VersionState",
    "decode",
    "decode_many",
    "open_store",
]
