"""A gang of two real processes: the death of a member, going on from the checkpoint."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="deep_text trains with TensorFlow: pip install 'gdmix[tensorflow]'")

MEMBER = Path(__file__).with_name("gang_member.py")


@contextmanager
def gang(directory: Path) -> Iterator[list[subprocess.Popen[str]]]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = ",".join(f"127.0.0.1:{server.getsockname()[1]}" for server in held)
    for server in held:
        server.close()
    command = [sys.executable, str(MEMBER)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    members = [
        subprocess.Popen(
            [*command, str(rank), addresses, str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        yield members
    finally:
        for member in members:
            member.kill()
            member.wait()
            assert member.stdout is not None
            member.stdout.close()


def said(member: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert member.stdout is not None
    for line in member.stdout:
        if line.startswith("{"):
            yield json.loads(line)


def test_a_gang_goes_on_after_the_death_of_a_member(tmp_path: Path) -> None:
    with gang(tmp_path / "gang") as (chief, other):
        for facts in said(chief):
            if facts.get("step", 0) >= 60:
                break
        other.kill()
        rest = list(said(chief))
        assert chief.wait() == 3
        assert rest[-1]["unavailable"].startswith(
            "a member of the gang is gone: Collective ops is aborted by"
        )
    with gang(tmp_path / "gang") as (chief, other):
        facts = list(said(chief))[-1]
        others = list(said(other))[-1]
        assert (chief.wait(), other.wait()) == (0, 0)
    (notice,) = facts["notices"]
    assert notice.startswith("training goes on from its checkpoint of step ")
    assert int(notice.split()[-1]) >= 40
    assert others["auc"] == facts["auc"], "members end with the same weights"
    assert facts["auc"] > 0.7
