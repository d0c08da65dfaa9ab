"""The worker process: `python -m gdmix_trainer --coordinator HOST:PORT`.

It registers as soon as gRPC is imported and imports everything else while it waits for work. Exit codes: 0 it
was told to end, 2 usage, 3 the coordinator refused it, 4 not permitted.
"""

from __future__ import annotations

from gdmix_core.blas import pin_blas_threads

# Before anything can import numpy: BLAS reads these variables when it is loaded.
pin_blas_threads()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from gdmix_core.errors import GdmixError, UsageError  # noqa: E402
from gdmix_core.logs import configure_logging  # noqa: E402
from gdmix_core.parent_link import ParentLink  # noqa: E402
from gdmix_trainer.gang import LOOPBACK  # noqa: E402

if TYPE_CHECKING:
    from gdmix_trainer.rpc import Endpoint


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker until it is told to end, then end the process with the exit code."""
    options = _parse(arguments)
    configure_logging("worker", options.log_level)
    link = ParentLink(options.parent_fd)
    exit_code, busy = 0, True
    try:
        busy = asyncio.run(_run(options, link))
    except KeyboardInterrupt:
        exit_code = 130
    except GdmixError as error:
        exit_code = 3 if error.exit_code == 1 else error.exit_code
        sys.stderr.write(f"gdmix worker: {error}\n")
        link.report("failed", message=str(error), exit_code=exit_code)
    if not busy:
        sys.exit(exit_code)
    # Threads are still importing, compiling or in kernels whose results nobody wants: do not wait for them.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(exit_code)


async def _run(options: argparse.Namespace, link: ParentLink) -> bool:
    """Run the worker; return whether its threads are still at work."""
    from gdmix_trainer.worker import Worker

    worker = Worker(
        endpoint=_endpoint(options),
        threads=options.threads or available_cores(),
        name=options.name,
        data_roots=options.data_root,
        link=link,
        advertise_host=options.advertise_host,
    )
    await worker.run()
    return worker.busy


def _endpoint(options: argparse.Namespace) -> Endpoint:
    from gdmix_core.security import Role, bearer_metadata, load_token
    from gdmix_trainer.rpc import Endpoint

    certificate = None
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    if options.tls_cert is not None:
        certificate = (options.tls_cert, options.tls_key)
    return Endpoint(
        target=options.coordinator,
        metadata=bearer_metadata(load_token(options.token_file, role=Role.WORKER)),
        ca=options.tls_ca,
        certificate=certificate,
    )


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "gdmix-cli worker", description="A worker: trains models for a coordinator."
    )
    add = parser.add_argument
    add("--coordinator", required=True, metavar="HOST:PORT", help="where the coordinator listens")
    add("--threads", type=_positive, metavar="N", help="units side by side (default: the cores)")
    add("--name", default="", help="worker id (default: made from host, process and a random part)")
    add("--token-file", type=Path, metavar="FILE", help="token file (default: $GDMIX_TOKEN)")
    add("--tls-ca", type=Path, metavar="FILE", help="authority that signed the coordinator's certificate")
    add("--tls-cert", type=Path, metavar="FILE", help="own certificate, where the coordinator asks for one")
    add("--tls-key", type=Path, metavar="FILE", help="key of the own certificate")
    add(
        "--data-root",
        action="append",
        default=[],
        metavar="DIRECTORY",
        help="touch files only below this directory (repeatable; default: anywhere)",
    )
    add(
        "--advertise-host",
        default=LOOPBACK,
        metavar="HOST",
        help="where workers on other machines reach this one, for fixed effects that several workers train "
        "together (default: %(default)s, for workers of one machine); what they say is neither encrypted nor "
        "authenticated",
    )
    add("--parent-fd", type=int, metavar="FD", help="inherited descriptor of the parent process")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    main()
