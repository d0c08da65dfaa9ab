"""docs/cli.md and docs/client.md name everything that is there, and nothing that is not."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import gdmix_client
from gdmix_client import AsyncClient, Client, LocalCluster
from gdmix_client.cli.app import app
from gdmix_core.errors import catalog

ROOT = Path(__file__).parents[2]
COMMAND_LINE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
PYTHON = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
INTERNAL = {"--help", "--parent-fd"}
SOURCES = [
    path for part in ("core", "client", "server", "trainer", "scorer") for path in (ROOT / part).rglob("*.py")
]


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the command of every command."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_page(name: str) -> None:
    assert re.search(rf"`{name}[ `]", COMMAND_LINE)
    if name == "score":
        return  # its options are in scoring.md
    options = {
        option for parameter in COMMANDS[name].params for option in parameter.opts + parameter.secondary_opts
    }
    for option in sorted(option for option in options if option.startswith("--") and option not in INTERNAL):
        negative = f"--no-{option[2:]}"
        assert option in COMMAND_LINE or negative in COMMAND_LINE, option


@functools.cache
def role_options(role: str) -> frozenset[str]:
    """Options that a role's own `--help` shows."""
    program = str(Path(sys.executable).with_name("gdmix-cli"))
    shown = subprocess.run([program, role, "--help"], capture_output=True, text=True, check=True).stdout
    return frozenset(re.findall(r"^ +(--[a-z-]+)", shown, re.MULTILINE)) - INTERNAL


@pytest.mark.parametrize("role", ["coordinator", "worker"])
def test_every_option_of_a_role_is_in_the_page(role: str) -> None:
    assert [option for option in sorted(role_options(role)) if f"`{option}`" not in COMMAND_LINE] == []


def test_no_option_is_in_the_page_that_no_command_has() -> None:
    known = {
        option
        for command in COMMANDS.values()
        for p in command.params
        for option in p.opts + p.secondary_opts
    }
    known |= role_options("coordinator") | role_options("worker") | INTERNAL | {"--scorer", "--version"}
    assert set(re.findall(r"--[a-z][a-z-]+", COMMAND_LINE)) - known == set()


def test_every_environment_variable_is_in_the_page() -> None:
    pattern = re.compile(r"\"(GDMIX_[A-Z_]+)\"")
    used = {name for path in SOURCES for name in pattern.findall(path.read_text(encoding="utf-8"))}
    assert used == set(re.findall(r"GDMIX_[A-Z_]+", COMMAND_LINE))


def test_the_exit_codes_of_the_page_are_those_of_the_catalog() -> None:
    rows = re.findall(r"^\| (\d+) \|", COMMAND_LINE, re.MULTILINE)
    assert {int(code) for code in rows} == {0, *(kind.exit_code for kind in catalog().values())}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_method_of_the_clients_is_in_the_page(kind: type) -> None:
    methods = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if name != "close" and not re.search(rf"`{name}[`(]", PYTHON)] == []


def test_the_python_page_names_what_can_be_imported() -> None:
    for names in re.findall(r"^\s*from gdmix_client import (.+)$", PYTHON, re.MULTILINE):
        for name in names.split(", "):
            assert name in gdmix_client.__all__
    given = set(inspect.signature(LocalCluster).parameters)
    assert set(re.findall(r"`(\w+)=`", PYTHON)) | {"scorer"} <= given


@pytest.mark.parametrize(
    "page",
    [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md"],
    ids=lambda p: p.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
