"""The coordinator as a process: `python -m gdmix_server --state-dir DIRECTORY`."""

from __future__ import annotations

from gdmix_core.blas import pin_blas_threads

pin_blas_threads()  # before anything imports numpy

import argparse  # noqa: E402
import asyncio  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402

from gdmix_core.errors import GdmixError, UsageError  # noqa: E402
from gdmix_core.logs import configure_logging  # noqa: E402
from gdmix_core.parent_link import ParentLink  # noqa: E402
from gdmix_server.server import Coordinator, ServerSettings, TlsFiles  # noqa: E402
from gdmix_server.state.settings import MachineSettings  # noqa: E402
from gdmix_server.uploads import MAX_UPLOAD_BYTES, MAX_UPLOAD_ROWS  # noqa: E402

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a coordinator until it is told to end; return the exit code."""
    options = _parser().parse_args(arguments)
    configure_logging("coordinator", options.log_level)
    link = ParentLink(options.parent_fd)
    try:
        asyncio.run(_serve(_settings(options), link))
    except GdmixError as error:
        print(f"coordinator: {error}", file=sys.stderr)  # noqa: T201 - what the person at the terminal reads
        link.report("failed", message=str(error), exit_code=error.exit_code)
        return error.exit_code
    return 0


async def _serve(settings: ServerSettings, link: ParentLink) -> None:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told_to_end.set)
    link.when_parent_ends(lambda: _from_thread(loop, told_to_end))
    coordinator = Coordinator(settings)
    await coordinator.start()
    link.report("listening", port=coordinator.port)
    await coordinator.announce_ready()
    link.report("ready")
    end = asyncio.create_task(told_to_end.wait())
    failure = asyncio.create_task(coordinator.wait())
    try:
        await asyncio.wait([end, failure], return_when=asyncio.FIRST_COMPLETED)
    finally:
        end.cancel()
        await coordinator.stop()
    if failure.done():
        failure.result()
    failure.cancel()


def _from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: the coordinator has ended already
        loop.call_soon_threadsafe(event.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdmix-cli coordinator", description="Coordinates training jobs; workers connect to it."
    )
    add = parser.add_argument
    add("--state-dir", required=True, type=Path, help="directory of the journal; one coordinator at a time")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", default=0, type=int, help="port to listen on (default: any free one)")
    add("--store", default="", help="store of jobs that name none: lmdb:DIRECTORY or redis://…")
    add("--token-file", type=Path, help="who may do what: one token, or lines of 'role[,role…] token'")
    add("--tls-cert", type=Path, help="PEM file of the server's certificate chain")
    add("--tls-key", type=Path, help="PEM file of its private key")
    add("--tls-client-ca", type=Path, help="PEM file of the authority that clients' certificates need")
    add("--insecure", action="store_true", help="listen beyond loopback without TLS and tokens")
    add("--data-root", action="append", default=[], help="jobs may name paths below it only; repeatable")
    add(
        "--uploads",
        type=Path,
        metavar="DIRECTORY",
        help="uploaded scores (default: below the state directory)",
    )
    add(
        "--max-upload-bytes",
        type=_count,
        default=MAX_UPLOAD_BYTES,
        metavar="BYTES",
        help="largest file of scores that is taken (default: %(default)s)",
    )
    add(
        "--max-upload-rows",
        type=_count,
        default=MAX_UPLOAD_ROWS,
        metavar="ROWS",
        help="most rows that a file of scores may have (default: %(default)s)",
    )
    add("--workers-wait-seconds", type=_positive, default=60.0, help="how long a job waits for any worker")
    add(
        "--lease-seconds",
        type=_positive,
        default=15.0,
        help="a worker silent for this long has lost its units",
    )
    add("--reconnect-seconds", type=_positive, default=3.0, help="how long a worker may take to come back")
    add("--parent-fd", type=int, help="socket to the parent process; the coordinator ends with it")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _settings(options: argparse.Namespace) -> ServerSettings:
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise UsageError("--tls-client-ca needs --tls-cert and --tls-key")
    if not 0 <= options.port < 65536:
        raise UsageError(f"--port: found {options.port}; allowed are 0 to 65535")
    tls = None
    if options.tls_cert is not None:
        tls = TlsFiles(certificate=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca)
    store = _absolute_store(options.store)
    return ServerSettings(
        state_dir=options.state_dir,
        host=options.host,
        port=options.port,
        store=store,
        token_file=options.token_file,
        tls=tls,
        insecure=options.insecure,
        data_roots=tuple(options.data_root),
        uploads=None if options.uploads is None else options.uploads.expanduser().absolute(),
        max_upload_bytes=options.max_upload_bytes,
        max_upload_rows=options.max_upload_rows,
        machine=MachineSettings(
            workers_wait_seconds=options.workers_wait_seconds,
            lease_seconds=options.lease_seconds,
            reconnect_seconds=options.reconnect_seconds,
            store=store,
        ),
    )


def _absolute_store(url: str) -> str:
    """Return the store's URL with the directory of an embedded one made absolute."""
    if not url or url.startswith(("redis://", "rediss://", "unix://")):
        return url
    if url.startswith("lmdb:") and url != "lmdb:":
        return f"lmdb:{Path(url.removeprefix('lmdb:')).expanduser().absolute()}"
    raise UsageError(
        f"--store: found {url!r}; allowed are lmdb:DIRECTORY, redis://…, rediss://… and unix://…"
    )


if __name__ == "__main__":
    sys.exit(main())
