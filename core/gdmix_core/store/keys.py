"""Names in the store: how keys are made, and how no id can break out of its own (`docs/specs/store.md`).

    gdmix:models                                   set of model names
    gdmix:<model>:control                          counter, states, aliases, epochs, the active version
    gdmix:<model>:active                           the active version's number (for pollers)
    gdmix:<model>:v<version>:seal                  written last, deleted first
    gdmix:<model>:v<version>:manifest
    gdmix:<model>:v<version>:b:<blob>:<chunk>      files, in chunks
    gdmix:<model>:v<version>:e:<coordinate>:<id>   one coefficient record for each entity

In every name that users give, `% : { }` and control bytes are %-escaped, so a colon in a key is always ours.
Braces never appear: on Redis Cluster they would choose the hash slot.
"""

from __future__ import annotations

import re
from typing import Final

from gdmix_core.errors import UsageError

MAX_ENTITY_BYTES: Final = 256
MAX_NAME_BYTES: Final = 128
_ESCAPED: Final = re.compile(rb"[\x00-\x1f\x7f%:{}]")
_GLOB: Final = re.compile(rb"[\\*?\[\]]")

SEAL: Final = b"seal"
MANIFEST: Final = b"manifest"
MODELS: Final = b"gdmix:models"


def escape(name: bytes) -> bytes:
    """%-escape what could be mistaken for a key's own structure; injective."""
    return _ESCAPED.sub(lambda match: b"%%%02X" % match.group()[0], name)


def unescape(name: bytes) -> bytes:
    """Undo `escape`."""
    return re.sub(rb"%([0-9A-F]{2})", lambda match: bytes([int(match.group(1), 16)]), name)


def name_part(name: str, what: str) -> bytes:
    """Escape the name of a model, coordinate or blob.

    Raises:
        UsageError: it is empty or longer than 128 bytes after escaping.
    """
    part = escape(name.encode())
    if not 0 < len(part) <= MAX_NAME_BYTES:
        raise UsageError(
            f"{what} {name!r} is not a name: allowed are 1 to {MAX_NAME_BYTES} bytes after escaping"
        )
    return part


def model_prefix(model: str) -> bytes:
    """Return what every key of a model begins with."""
    return b"gdmix:" + name_part(model, "model") + b":"


def version_prefix(model: str, version: int) -> bytes:
    """Return what every key of a version begins with."""
    return b"%bv%d:" % (model_prefix(model), version)


def entity_prefix(coordinate: str) -> bytes:
    """Return what follows the version's prefix in the keys of a coordinate's entities, up to the id."""
    return b"e:" + name_part(coordinate, "coordinate") + b":"


def entity_key(coordinate: str, entity: bytes) -> bytes:
    """Return an entity's key without the version's prefix.

    An id that cannot have been stored (empty, too long) gets a key that is never present.
    """
    part = escape(entity)
    return entity_prefix(coordinate) + (part if len(part) <= MAX_ENTITY_BYTES else b"")


def blob_key(name: str, chunk: int) -> bytes:
    """Return the key of one chunk of a blob, without the version's prefix."""
    return b"b:%b:%d" % (name_part(name, "blob"), chunk)


def glob_of(prefix: bytes) -> bytes:
    """Return the MATCH pattern for all keys that begin with `prefix`."""
    return _GLOB.sub(lambda match: b"\\" + match.group(), prefix) + b"*"
