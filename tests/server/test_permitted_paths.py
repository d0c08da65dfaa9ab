"""Data roots."""

from __future__ import annotations

import pytest

from gdmix_core.config import parse_config, resolve_paths
from gdmix_core.errors import NotPermitted
from gdmix_server.permitted_paths import PermittedPaths


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    return tmp_path / "root"


def permitted(paths, path):
    try:
        paths.check(str(path), "data.train[0]")
    except NotPermitted as error:
        return "data.train[0]" not in str(error)
    return True


def test_only_what_lies_below_a_root(root):
    paths = PermittedPaths((str(root), "s3://bucket/data"))
    for path in (
        root,
        root / "a.csv",
        root / "inside" / "*.parquet",
        root / "*" / "x",
        f"file://{root}/a",
        "s3://bucket/data/x",
    ):
        assert permitted(paths, path), path
    for path in (
        root.parent,
        f"{root}-other/a.csv",
        root / "link" / "a.csv",
        f"{root}/../outside/a.csv",
        f"{root}/*/../../outside/a.csv",
        "/etc/passwd",
        "s3://bucket/data/../other",
        "s3://bucket/database",
        "s3://other/data",
        "gs://bucket/data",
    ):
        assert not permitted(paths, path), path


def test_without_roots_everything_is_permitted():
    assert permitted(PermittedPaths(), "/etc/passwd")


def test_every_path_of_a_config_is_checked(root):
    text = (
        "model: m\ntask: linear_regression\ndata: {{train: {train}, validation: {validation}}}\n"
        "features: {{a: [x]}}\ncoordinates: {{g: {{fixed_effect: linear_regression, features: a}}}}\n"
        "output: {output}\nstore: '{store}'\n"
    )
    fields = {"train": "a.csv", "validation": "b.csv", "output": "out", "store": "lmdb:store"}
    paths = PermittedPaths((str(root),))
    paths.check_config(resolve_paths(parse_config(text.format(**fields)), root))
    paths.check_config(resolve_paths(parse_config(text.format(**fields | {"store": "redis://h:1/0"})), root))
    for name in fields:
        elsewhere = "lmdb:/elsewhere" if name == "store" else "/elsewhere"
        config = resolve_paths(parse_config(text.format(**fields | {name: elsewhere})), root)
        with pytest.raises(NotPermitted, match=f"{name}.*elsewhere"):
            paths.check_config(config)
