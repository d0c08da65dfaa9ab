"""Every error that GDMix raises on purpose.

    GdmixError
    ├── UsageError                 the request makes no sense as it stands
    │   ├── ConfigError            a job config has mistakes (all of them, each with its path)
    │   ├── NotFound               no such job, model, version, upload
    │   └── MissingDependency      an optional package (extra) or program is needed
    ├── DataError                  the data break a rule (file, column, first offending rows)
    ├── Conflict                   the thing exists already, or its state forbids the request
    │   ├── StaleLease             a result or announcement carries an outdated fence or epoch
    │   └── ActivationConflict     another publisher activated a version in between
    ├── StoreError
    │   ├── StoreUnavailable       the coefficient store cannot be reached
    │   ├── StoreCorrupt           what it holds fails its checksum or breaks the format
    │   └── VersionGone            the version's seal is absent: emptied, evicted or cleaned up
    ├── Unavailable                the coordinator, or all workers, cannot be reached
    ├── Overloaded                 more is asked than can be answered in time: ask less, or later
    ├── DeadlineExceeded           there was no answer within the caller's time
    ├── NotPermitted               a token is missing, wrong, or lacks the role
    ├── JobFailed                  a training job ended in failure
    ├── Cancelled                  somebody asked for the end
    └── InternalError              a fault of GDMix itself

Messages are public: they cross the wire as they are, so they never hold secrets or stack traces.
Each class names its gRPC status (`status`, the name of a `grpc.StatusCode`) and the exit code of the
command line (`exit_code`): 1 job failed, 2 usage or config, 3 unavailable, 4 not permitted, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class GdmixError(Exception):
    """Root of the tree; `str(error)` is one clear, public message."""

    code: ClassVar[str] = "error"
    status: ClassVar[str] = "UNKNOWN"
    exit_code: ClassVar[int] = 1


class UsageError(GdmixError):
    """The request makes no sense as it stands."""

    code = "usage"
    status = "INVALID_ARGUMENT"
    exit_code = 2


class ConfigError(UsageError):
    """A job config has mistakes; `problems` holds one line each."""

    code = "config"

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class NotFound(UsageError):
    """No such job, model, version or upload."""

    code = "not_found"
    status = "NOT_FOUND"


class MissingDependency(UsageError):
    """An optional package or program is needed; the message says how to get it."""

    code = "missing_dependency"
    status = "FAILED_PRECONDITION"


class DataError(GdmixError):
    """The data break a rule; the message names file, column and the first offending rows."""

    code = "data"
    status = "INVALID_ARGUMENT"


class Conflict(GdmixError):
    """The thing exists already, or its state forbids the request."""

    code = "conflict"
    status = "FAILED_PRECONDITION"


class StaleLease(Conflict):
    """A result or announcement carries an outdated fence or epoch."""

    code = "stale_lease"
    status = "ABORTED"


class ActivationConflict(Conflict):
    """Another publisher activated a version in between; `winner` is that version."""

    code = "activation_conflict"
    status = "ABORTED"

    def __init__(self, message: str, winner: int | None = None) -> None:
        super().__init__(message)
        self.winner = winner


class StoreError(GdmixError):
    """The coefficient store failed."""

    code = "store"
    status = "INTERNAL"


class StoreUnavailable(StoreError):
    """The coefficient store cannot be reached."""

    code = "store_unavailable"
    status = "UNAVAILABLE"
    exit_code = 3


class StoreCorrupt(StoreError):
    """What the store holds fails its checksum or breaks the format."""

    code = "store_corrupt"
    status = "DATA_LOSS"


class VersionGone(StoreError):
    """The seal of a version is absent: the store was emptied, evicted it, or cleaned it up."""

    code = "version_gone"
    status = "NOT_FOUND"


class Unavailable(GdmixError):
    """The coordinator, or every worker, cannot be reached."""

    code = "unavailable"
    status = "UNAVAILABLE"
    exit_code = 3


class Overloaded(GdmixError):
    """More is asked than can be answered in time; asking again at once makes it worse."""

    code = "overloaded"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 3


class DeadlineExceeded(GdmixError):
    """There was no answer within the time that the caller gave."""

    code = "deadline_exceeded"
    status = "DEADLINE_EXCEEDED"
    exit_code = 3


class NotPermitted(GdmixError):
    """A token is missing, wrong, or lacks the role."""

    code = "not_permitted"
    status = "PERMISSION_DENIED"
    exit_code = 4


class JobFailed(GdmixError):
    """A training job ended in failure."""

    code = "job_failed"
    status = "FAILED_PRECONDITION"


class Cancelled(GdmixError):
    """Somebody asked for the end."""

    code = "cancelled"
    status = "CANCELLED"
    exit_code = 130


class InternalError(GdmixError):
    """A fault of GDMix itself; the details are in the server's log."""

    code = "internal"
    status = "INTERNAL"


def catalog() -> dict[str, type[GdmixError]]:
    """Map each error code to its class, for both ends of the wire."""
    found: dict[str, type[GdmixError]] = {}
    pending: list[type[GdmixError]] = [GdmixError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found
