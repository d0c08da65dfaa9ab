"""The process that checks a file and writes its scores."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gdmix_core.errors import DataError, InternalError
from gdmix_server.uploads.headers import UploadHeader

logger = logging.getLogger(__name__)

CHECK_COMMAND: Final = (sys.executable, "-m", "gdmix_core.data.uploaded_scores")
_SIGNALS_OF_DAMAGE: Final = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE})


async def summary_of(sent: Path, header: UploadHeader, written: Path, max_rows: int) -> dict[str, Any]:
    """Have a process check a file and write its scores; whatever the file does to it, this one goes on.

    Raises:
        DataError: The scores break a rule, or the file is so damaged that it ends whoever reads it.
        InternalError: The process failed by itself.
    """
    name = f"upload {header.name!r}"
    request = {
        "path": str(sent),
        "name": name,
        "format": header.format,
        "uid_column": header.uid_column,
        "score_column": header.score_column,
        "target": str(written),
        "max_rows": max_rows,
    }
    pipe = asyncio.subprocess.PIPE
    # In a session of its own, so that a Ctrl-C for the coordinator is not taken for a fault of the file.
    process = await asyncio.create_subprocess_exec(
        *CHECK_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with suppress(ConnectionError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        answer, remarks = await asyncio.gather(process.stdout.read(), process.stderr.read())
        code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdin.close()
        await process.wait()
        if process.returncode != 0:
            _remove_file(written)
    if -code in _SIGNALS_OF_DAMAGE:
        logger.warning(
            "the check of %s ended by signal %d: %s", name, -code, remarks.decode(errors="replace")
        )
        raise DataError(f"{name}: cannot be read as {header.format}: it is damaged")
    if code != 0:
        logger.error("the check of %s failed with code %d: %s", name, code, remarks.decode(errors="replace"))
        raise InternalError(f"{name}: the check failed; the coordinator's log says why")
    said = json.loads(answer)
    if said["summary"] is None:
        raise DataError(said["refusal"])
    summary: dict[str, Any] = said["summary"]
    return summary


def _remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)
