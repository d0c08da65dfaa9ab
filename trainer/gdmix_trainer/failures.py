"""What a failed unit reports: an error code, a public message, and whether another try may help."""

from __future__ import annotations

import errno
import logging

from gdmix_core.errors import (
    Cancelled,
    GdmixError,
    InternalError,
    StaleLease,
    StoreUnavailable,
    Unavailable,
)
from gdmix_trainer.messages import Lease, UnitFailed

_log = logging.getLogger(__name__)

_MAY_PASS = (Cancelled, InternalError, StaleLease, StoreUnavailable, Unavailable)
_PASSING_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Faults of a machine or its disk rather than of the data: another worker, or a later try, may do better."""


def failure_of(lease: Lease, error: BaseException) -> UnitFailed:
    """Describe an exception for the coordinator; the stack trace goes to this process's log only.

    Errors of GDMix keep their code and message. They are final, except for those that may pass: a store that
    cannot be reached, a full disk, a fault of GDMix itself. All else is `internal` and worth another try.
    """
    if isinstance(error, GdmixError):
        retryable = isinstance(error, _MAY_PASS) or passing_fault(error)
        _log.log(
            logging.WARNING if retryable else logging.ERROR,
            "%s failed: %s",
            lease,
            error,
            exc_info=error if isinstance(error, InternalError) else None,
        )
        return UnitFailed(lease, error.code, str(error), retryable)
    _log.error("%s failed unexpectedly", lease, exc_info=error)
    if isinstance(error, MemoryError):
        return UnitFailed(lease, InternalError.code, "a worker ran out of memory", retryable=True)
    text = str(error).strip()
    message = type(error).__name__ + (f": {text}" if text else "")
    return UnitFailed(lease, InternalError.code, message, retryable=True)


def passing_fault(error: BaseException) -> bool:
    """Whether an error is, or comes of, a fault of a machine or its disk: another try may do better."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _PASSING_ERRNOS):
            return True
        cause = cause.__cause__
    return False
