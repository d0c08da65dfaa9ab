"""What every command promises before it does anything: help, usage errors, exit codes, a quick start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gdmix_client.cli.app import app
from gdmix_core.errors import catalog

HEAVY = ("numpy", "scipy", "numba", "llvmlite", "pyarrow", "polars", "grpc", "google", "lmdb", "redis")
ROLES = ("coordinator", "worker", "scorer")
"""They turn into another program, options and all: not to be called inside this process."""
COMMANDS = {
    "quickstart",
    "validate",
    "convert",
    "train",
    "up",
    "down",
    "coordinator",
    "worker",
    "scorer",
    "score",
    "doctor",
    "data fetch",
    "data from-access-log",
    *(f"scores {name}" for name in ("upload", "list", "show", "delete")),
    *(f"jobs {name}" for name in ("list", "show", "watch", "logs", "cancel", "resume", "delete")),
    *(
        f"models {name}"
        for name in (
            "list",
            "show",
            "activate",
            "rollback",
            "delete",
            "publish",
            "verify",
            "alias",
            "export",
            "split",
        )
    ),
}


def commands(group: Any = None, path: str = "") -> Iterator[str]:
    """Yield the paths of all commands."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_these_are_the_commands() -> None:
    assert set(commands()) == COMMANDS


@pytest.mark.parametrize("command", sorted({*COMMANDS, "", "jobs", "models", "data", "scores"} - set(ROLES)))
def test_help(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command", sorted(COMMANDS - set(ROLES)))
def test_unknown_option(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--no-such-option"])
    assert done.exit_code == 2
    assert "--no-such-option" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("role", ROLES)
def test_help_and_usage_of_roles(cli: Any, role: str) -> None:
    shown = cli(role, "--help")
    assert shown.returncode == 0
    assert "--token-file" in shown.stdout
    refused = cli(role, "--no-such-option")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-command"], "no-such-command"),
        (["jobs", "no-such-command"], "no-such-command"),
        (["train"], "CONFIG"),
        (["jobs", "show"], "JOB"),
        (["train", "job.yaml", "--workers", "0"], "--workers"),
        (["up", "--port", "65536"], "--port"),
        (["up", "--scorer-port", "-1"], "--scorer-port"),
        (["score", "rows.csv", "--batch", "0"], "--batch"),
        (["score", "rows.csv", "--version", "newest"], "--version"),
        (["jobs", "list", "--limit", "0"], "--limit"),
        (["models", "activate", "shop", "0"], "VERSION"),
        (["models", "activate", "shop", "newest"], "VERSION"),
        (["data", "fetch", "netflix"], "movielens-100k"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "job.yaml", "--detach"], "--detach needs a coordinator"),
        (["train", "job.yaml", "--coordinator", "127.0.0.1:1", "--workers", "2"], "--workers is for jobs"),
        (["jobs", "list"], "no coordinator"),
        (["jobs", "list", "--coordinator", "here"], "HOST:PORT"),
        (["jobs", "list", "--coordinator", "127.0.0.1:1", "--token-file", "no.token"], "no.token"),
        (["jobs", "list", "--coordinator", "127.0.0.1:1", "--tls-ca", "no.pem"], "no.pem"),
        (["jobs", "list", "--output", "nowhere"], "nowhere"),
        (["jobs", "resume", "j", "--output", "o", "--detach"], "--detach needs a coordinator"),
        (["jobs", "resume", "j", "--workers", "2"], "--workers is for jobs"),
        (["jobs", "logs", "j", "--output", "o", "--follow"], "--follow needs a coordinator"),
        (["models", "list"], "no coordinator"),
        (["models", "list", "--store", "lmdb:nowhere"], "nowhere"),
        (["models", "list", "--store", "mongo:nowhere"], "lmdb:DIRECTORY"),
        (["models", "list", "--coordinator", "127.0.0.1:1", "--output", "o"], "--output is for jobs"),
        (["models", "publish", "3", "--store", "lmdb:new"], "--output"),
        (["models", "publish", "nowhere", "--store", "lmdb:new"], "nowhere"),
        (["models", "alias", "shop", "--delete", "--store", "lmdb:new"], "--delete"),
        (["data", "fetch", "movielens-100k", "--from", "nowhere.zip"], "nowhere.zip"),
        (["score", "rows.csv"], "no scorer"),
        (["score", "rows.csv", "--scorer", "here"], "HOST:PORT"),
        (["score", "rows.csv", "--scorer", "127.0.0.1:1"], "rows.csv: no such file"),
        (["score", "--scorer", "127.0.0.1:1", "--version", "1", "--alias", "a"], "--version and --alias"),
        (["score", "--scorer", "127.0.0.1:1", "--json"], "--json prints a summary"),
        (["score", "--scorer", "127.0.0.1:1", "--output", "scores.xls"], ".parquet, .csv, .jsonl"),
        (["score", "--scorer", "127.0.0.1:1", "--output", "no/scores.csv"], "no/scores.csv"),
    ],
)
def test_options_that_make_no_sense(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == (1 if "fetch" in arguments else 2)
    assert done.stderr.startswith("gdmix-cli: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_of_the_real_program(cli: Any) -> None:
    done = cli("train", "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_version(cli: Any) -> None:
    done = cli("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("gdmix ")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["models", "publish", "--help"], ["score", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from gdmix_client.cli import main\n"
        f"sys.argv = ['gdmix-cli', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, gdmix_client\n"
        "gdmix_client.Connection, gdmix_client.JobState, gdmix_client.LocalCluster, gdmix_client.connection_to\n"
        "gdmix_client.LocalScorer, gdmix_client.scorer_connection_to\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_exported_name_is_there() -> None:
    import gdmix_client

    for name in gdmix_client.__all__:
        assert getattr(gdmix_client, name).__name__ == name
    assert dir(gdmix_client) == sorted(gdmix_client.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        gdmix_client.no_such_name  # noqa: B018


def test_exit_codes_are_those_of_the_table() -> None:
    codes = {code: kind.exit_code for code, kind in catalog().items()}
    assert set(codes.values()) == {1, 2, 3, 4, 130}
    special = {
        2: {"usage", "config", "not_found", "missing_dependency"},
        3: {"unavailable", "store_unavailable", "overloaded", "deadline_exceeded"},
        4: {"not_permitted"},
        130: {"cancelled"},
    }
    for exit_code, expected in special.items():
        assert {code for code, found in codes.items() if found == exit_code} == expected


def test_a_stack_trace_only_for_those_who_ask(cli: Any) -> None:
    quiet = cli("jobs", "list", "--coordinator", "here")
    assert "Traceback" not in quiet.stderr
    debugging = cli("jobs", "list", "--coordinator", "here", GDMIX_DEBUG="1")
    assert "Traceback" in debugging.stderr
    assert "UsageError" in debugging.stderr
