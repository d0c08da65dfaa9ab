"""The scorer as a process: `python -m gdmix_scorer --store URL`; with `--child` one of its serving processes.

Exit codes: 0 it was told to end, 2 usage, 3 it cannot serve, 4 not permitted.
"""

from __future__ import annotations

from gdmix_core.blas import pin_blas_threads

pin_blas_threads()  # before anything imports numpy; serving processes inherit it

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any, Final  # noqa: E402

from gdmix_core.errors import GdmixError, UsageError  # noqa: E402

if TYPE_CHECKING:
    from gdmix_core.parent_link import ParentLink

_PATHS: Final = frozenset({"access_log", "token_file", "tls_cert", "tls_key", "tls_client_ca"})
"""Settings of a serving process that are paths; they travel as text."""
_MEBIBYTE: Final = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a scorer, or one serving process, until it is told to end; return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if "--child" in given:
        return _run_child(given)
    options = _parser().parse_args(given)
    from gdmix_core.logs import configure_logging
    from gdmix_core.parent_link import ParentLink

    configure_logging("scorer", options.log_level)
    link = ParentLink(options.parent_fd)
    try:
        _run_parent(options, link)
    except GdmixError as error:
        print(f"scorer: {error}", file=sys.stderr)  # noqa: T201 - what the person at the terminal reads
        # What other roles call a failure (1) is here always one to serve.
        exit_code = 3 if error.exit_code == 1 else error.exit_code
        link.report("failed", message=str(error), exit_code=exit_code)
        return exit_code
    except KeyboardInterrupt:  # before the scorer listened to signals
        return 130
    return 0


def _run_parent(options: argparse.Namespace, link: ParentLink) -> None:
    import asyncio

    settings = _checked(options)
    from gdmix_scorer.parent import Parent, ParentSettings

    parent = Parent(
        ParentSettings(
            host=options.host,
            port=options.port,
            processes=options.processes or _available_cores(),
            admin_host=options.admin_host,
            admin_port=options.admin_port,
            drain_seconds=options.drain_seconds,
        ),
        lambda number, host, port: _settings_of_child(settings, number, host, port),
        link,
    )
    asyncio.run(parent.run())


def _run_child(given: Sequence[str]) -> int:
    """Run one serving process; its settings come over the link from the parent."""
    parser = argparse.ArgumentParser("gdmix_scorer --child", description="One serving process of a scorer.")
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--parent-fd", type=int, required=True)
    options = parser.parse_args(given)
    from gdmix_core.logs import configure_logging
    from gdmix_scorer.child_link import ChildLink

    link = ChildLink(options.parent_fd)
    try:
        sent = link.read_settings()
        configure_logging(f"scorer-{sent['number']}", sent["log_level"])
        from gdmix_scorer.child import run_child
        from gdmix_scorer.settings import ScorerSettings

        chosen: dict[str, Any] = {
            name: Path(value) if name in _PATHS and value is not None else value
            for name, value in sent["settings"].items()
        }
        chosen["models"] = tuple(chosen["models"])
        return run_child(ScorerSettings(**chosen), int(sent["port"]), link)
    except GdmixError as error:
        exit_code = 3 if error.exit_code == 1 else error.exit_code
        link.report("failed", message=str(error), exit_code=exit_code)  # the parent says it to the person
        return exit_code


# ----------------------------------------------------------------------------- settings


def _settings_of_child(settings: Mapping[str, Any], number: int, host: str, port: int) -> dict[str, Any]:
    """Return what one serving process is sent: settings of all, and its own name and access log."""
    import socket

    own = dict(settings["settings"])
    own["host"] = host
    own["instance"] = f"{socket.gethostname()}:{port}/{number}"
    if own["access_log"] is not None:
        own["access_log"] = str(access_log_of_child(Path(own["access_log"]), number))
    return {"number": number, "port": port, "log_level": settings["log_level"], "settings": own}


def access_log_of_child(path: Path, number: int) -> Path:
    """Return the file of one serving process: `access.jsonl` → `access.0.jsonl`."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _checked(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of all serving processes as plain data: the fields of `ScorerSettings`.

    Raises:
        UsageError: they make no sense, or a file that they name cannot be read.
    """
    from gdmix_core.security import Authorizer, require_safe_binding

    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise UsageError("--tls-client-ca needs --tls-cert and --tls-key")
    for option in ("port", "admin_port"):
        found = getattr(options, option)
        if not 0 <= found < 65536:
            raise UsageError(f"--{option.replace('_', '-')}: found {found}; allowed are 0 to 65535")
    for option in ("tls_cert", "tls_key", "tls_client_ca"):
        _check_readable(f"--{option.replace('_', '-')}", getattr(options, option))
    tokens = options.token_file is not None and Authorizer.from_file(options.token_file).enforced
    require_safe_binding(
        options.host, tls=options.tls_cert is not None, tokens=tokens, insecure=options.insecure
    )
    if options.access_log is not None and not options.access_log.absolute().parent.is_dir():
        raise UsageError(f"--access-log {options.access_log}: its directory does not exist")
    settings = {
        "store": _absolute_store(options.store),
        "models": list(dict.fromkeys(options.model)),
        "host": options.host,
        "instance": "",
        "on_store_failure": options.on_store_failure,
        "cache_bytes": options.cache_mb * _MEBIBYTE,
        "access_log": _text(options.access_log),
        "access_log_sample": options.access_log_sample,
        "access_log_features": options.access_log_features,
        "token_file": _text(options.token_file),
        "tls_cert": _text(options.tls_cert),
        "tls_key": _text(options.tls_key),
        "tls_client_ca": _text(options.tls_client_ca),
        "insecure": options.insecure,
        "drain_seconds": options.drain_seconds,
        "streams_per_connection": options.streams_per_connection,
        "waiting_requests": options.waiting_requests,
    }
    return {"log_level": options.log_level, "settings": settings}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _check_readable(option: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read: {error.strerror or error}") from error


def _absolute_store(url: str) -> str:
    """Return the store's URL with the directory of an embedded one made absolute."""
    if url.startswith(("redis://", "rediss://", "unix://")):
        return url
    if url.startswith("lmdb:") and url != "lmdb:":
        return f"lmdb:{Path(url.removeprefix('lmdb:')).expanduser().absolute()}"
    raise UsageError(
        f"--store: found {url!r}; allowed are lmdb:DIRECTORY, redis://…, rediss://… and unix://…"
    )


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ----------------------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdmix-cli scorer",
        description="Scores candidates online, with the store's active model versions.",
    )
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="where models are: lmdb:DIRECTORY or redis://…")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="model to serve (repeatable; default: all of the store)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="port to listen on (default: any free one)")
    add("--processes", type=_positive, metavar="N", help="serving processes (default: the cores)")
    add("--admin-host", default="127.0.0.1", help="address of metrics and status (default: %(default)s)")
    add("--admin-port", type=int, default=0, help="port of metrics and status (default: any free one)")
    add(
        "--on-store-failure",
        choices=("unavailable", "fixed-effect-only"),
        default="unavailable",
        help="what to answer while the store cannot be read (default: %(default)s)",
    )
    add(
        "--cache-mb",
        type=_not_negative,
        default=256,
        metavar="MB",
        help="memory for coefficients in each process (default: %(default)s)",
    )
    add("--access-log", type=Path, metavar="FILE", help="log requests there, one file a process")
    add(
        "--access-log-sample",
        type=_fraction,
        default=0.01,
        metavar="R",
        help="part of the requests that is logged in full (default: %(default)s)",
    )
    add("--access-log-features", action="store_true", help="log their features too, as training data")
    add("--token-file", type=Path, metavar="FILE", help="who may score: a token, or lines of 'role token'")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM file of the server's certificate chain")
    add("--tls-key", type=Path, metavar="FILE", help="PEM file of its private key")
    add("--tls-client-ca", type=Path, metavar="FILE", help="authority that clients' certificates need")
    add("--insecure", action="store_true", help="listen beyond loopback without TLS and tokens")
    add(
        "--drain-seconds",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="time to finish what is under way when told to end (default: %(default)s)",
    )
    add(
        "--streams-per-connection",
        type=_positive,
        default=4,
        metavar="N",
        help="calls that a connection may have under way; its client holds back the rest (default: %(default)s)",
    )
    add(
        "--waiting-requests",
        type=_positive,
        default=32,
        metavar="N",
        help="requests that may wait in a process; some beyond, and all beyond twice as many, are refused "
        "(default: %(default)s)",
    )
    add("--parent-fd", type=int, metavar="FD", help="socket to the parent process; the scorer ends with it")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError("must be 0 to 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError("must be 0 to 3600 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
