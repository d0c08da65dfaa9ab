"""Values of a request that are not allowed, as one error."""

from __future__ import annotations

from collections.abc import Sequence

from gdmix_core.data.row_checks import Fault
from gdmix_core.errors import DataError


def raise_faults(faults: Sequence[Fault], context: bool) -> None:
    """Raise one DataError for the first fault of a request's columns, counting the candidates from 0."""
    for fault in faults:
        where = "context" if context else f"candidates[{fault.rows[0]}]"
        more = f" (and {len(fault.rows) - 1} more candidates)" if len(fault.rows) > 1 else ""
        raise DataError(
            f"{where}: column {fault.column!r} holds {fault.found[0]}{more}; allowed: {fault.allowed}"
        )
