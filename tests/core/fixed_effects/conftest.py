"""Distributions with plug-ins, as an installer would leave them: a module and its metadata in one folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gdmix_core.fixed_effects import registry

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution: `install("acme", "1.0", {"name": "module:Class"}, module="source")`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def put(distribution: str, version: str, plugins: dict[str, str], **sources: str) -> None:
        information = site / f"{distribution}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = [f"[{registry.GROUP}]", *(f"{name} = {target}" for name, target in plugins.items())]
        (information / "entry_points.txt").write_text("\n".join(lines))
        for module, source in sources.items():
            (site / f"{module}.py").write_text(source)
            modules.append(module)
        _forget()

    _forget()
    yield put
    for module in modules:
        sys.modules.pop(module, None)
    _forget()


def _forget() -> None:
    registry.installed_plugins.cache_clear()
    registry.load_plugin.cache_clear()
