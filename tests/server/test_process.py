"""The coordinator as a process: how it starts, what it reports, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

PATIENCE_SECONDS = 30.0
HEAVY = (
    "numba",
    "polars",
    "scipy.optimize",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "redis",
    "lmdb",
    "tensorflow",
)


@contextmanager
def coordinator(*arguments):
    """Start a coordinator; yield the process and the parent's end of its link."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [
        sys.executable,
        "-m",
        "gdmix_server",
        *map(str, arguments),
        "--parent-fd",
        str(theirs.fileno()),
    ]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE, text=True)
    theirs.close()
    try:
        with ours, ours.makefile("r") as reports:
            yield process, (json.loads(line) for line in reports), ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "parent"])
def test_it_reports_and_ends_gracefully(state_dir, ending):
    with coordinator("--state-dir", state_dir) as (process, reports, link):
        listening, ready = next(reports), next(reports)
        assert listening["event"] == "listening"
        assert ready == {"event": "ready"}
        endpoint = json.loads((state_dir / "endpoint.json").read_text())
        assert endpoint == {"host": "127.0.0.1", "port": listening["port"], "pid": process.pid}
        if ending == "parent":
            link.shutdown(socket.SHUT_WR)
        else:
            process.send_signal(getattr(signal, ending))
        assert process.wait(PATIENCE_SECONDS) == 0
        assert not (state_dir / "endpoint.json").exists()
        assert not (state_dir / "journal.sqlite-wal").exists()


def test_a_second_one_on_the_same_state_directory_ends_with_one_clear_line(state_dir):
    with coordinator("--state-dir", state_dir) as (first, reports, _):
        assert next(reports)["event"] == "listening"
        with coordinator("--state-dir", state_dir) as (second, second_reports, _):
            failed = next(second_reports)
            assert second.wait(PATIENCE_SECONDS) == failed["exit_code"] == 1
            lines = second.stderr.read().splitlines()
        assert f"in use by another coordinator (process {first.pid})" in failed["message"]
        assert lines == [f"coordinator: {failed['message']}"]
        assert first.poll() is None


def test_a_state_directory_outlives_a_kill(state_dir):
    with coordinator("--state-dir", state_dir) as (process, reports, _):
        assert next(reports)["event"] == "listening"
        process.kill()
        process.wait()
    with coordinator("--state-dir", state_dir) as (_, reports, _):
        assert next(reports)["event"] == "listening"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "can be reached from other machines"),
        (("--tls-cert", "x.pem"), "--tls-cert and --tls-key go together"),
        (("--tls-client-ca", "x.pem"), "--tls-client-ca needs"),
        (("--port", "70000"), "allowed are 0 to 65535"),
        (("--store", "ftp://x"), "--store: found 'ftp://x'"),
        (("--token-file", "/nowhere/tokens"), "cannot be read: No such file"),
    ],
)
def test_mistakes_at_the_command_line(state_dir, capsys, arguments, message):
    from gdmix_server.__main__ import main

    assert main(["--state-dir", str(state_dir), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not state_dir.exists()


def test_nothing_heavy_is_imported_at_the_start():
    script = f"import sys, gdmix_server.__main__; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_blas_is_pinned_to_one_thread():
    script = "import os, gdmix_server.__main__; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.strip() == "1"
