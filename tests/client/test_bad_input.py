"""Whatever is wrong with config, data or coordinator: one clear message, the right exit code, nothing left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from gdmix_client import Client, LocalCluster, connection_to
from gdmix_core.errors import Unavailable

JobFile = Callable[..., Path]
Cli = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[pa.Table], pa.Table]


def one_message(done: Any, *parts: str) -> str:
    """Check that stderr is one message of ours with all parts, and that nothing else was said."""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("gdmix-cli: ")
    assert done.stderr.count("gdmix-cli: ") == 1
    for part in parts:
        assert part in done.stderr
    assert done.stdout == ""
    return str(done.stderr)


# ---- the config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["validate", "train"])
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"passses": 2}, ["passses", "passes"]),
        ({"task": "logistic"}, ["task", "logistic_regression"]),
        ({"passes": 0}, ["passes", "0"]),
        ({"metrics": ["acu"]}, ["metrics", "acu", "auc"]),
        (
            {"coordinates": {"global": {"fixed_effect": "logistic_regression", "features": ["al"]}}},
            ["coordinates.global", "al", "all"],
        ),
    ],
)
def test_mistakes_in_a_config(
    command: Cli, job_file: JobFile, tmp_path: Path, name: str, changes: dict[str, Any], parts: list[str]
) -> None:
    done = command(name, job_file(**changes))
    assert done.returncode == 2
    one_message(done, "job.yaml", *parts)
    assert not (tmp_path / "out").exists()


def test_all_mistakes_at_once_each_with_its_line(command: Cli, tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(
        "model: shop\n"
        "task: logistic_regression\n"
        "data: {train: t.parquet, colums: {label: y}}\n"
        "features: {all: [x]}\n"
        "coordinates:\n"
        "  global: {fixed_effect: logistic_regression, features: [all], l2: -1}\n"
        "output: out\n"
        "wokers: 3\n",
        encoding="utf-8",
    )
    done = command("validate", config)
    assert done.returncode == 2
    message = one_message(done, "colums", "columns", "l2", "-1", "wokers")
    for line in ("3", "6", "8"):
        assert f"line {line}" in message or f"job.yaml:{line}" in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"model: [shop\n", ["not YAML"]),
        (b"model: \xff\xfe\n", ["not UTF-8"]),
        (b"", ["empty"]),
        (b"- shop\n", ["job.yaml"]),
        (None, ["cannot be read", "No such file"]),
    ],
)
def test_a_config_that_is_none(command: Cli, tmp_path: Path, content: bytes | None, parts: list[str]) -> None:
    config = tmp_path / "job.yaml"
    if content is not None:
        config.write_bytes(content)
    done = command("train", config)
    assert done.returncode == 2
    one_message(done, "job.yaml", *parts)


# ---- the data --------------------------------------------------------------------------------------------


def values(column: str, changes: dict[int, object]) -> Change:
    """Return a change of single values of a column; keys are row positions from 0."""

    def change(table: pa.Table) -> pa.Table:
        found = table[column].to_pylist()
        for row, value in changes.items():
            found[row] = value
        return table.set_column(table.column_names.index(column), column, pa.array(found))

    return change


def column(name: str, make: Callable[[int], pa.Array]) -> Change:
    """Return a change of a whole column."""
    return lambda table: table.set_column(table.column_names.index(name), name, make(table.num_rows))


def unchanged(table: pa.Table) -> pa.Table:
    return table


CONFIG_CODE, DATA_CODE = 2, 1
TRAIN, VALIDATION = "train.parquet", "validation.parquet"
BAD_DATA: dict[str, tuple[Change, Change, int, list[str]]] = {
    "missing feature": (
        lambda table: table.drop_columns(["x"]),
        unchanged,
        CONFIG_CODE,
        [TRAIN, "'x'", "features.all", "missing", "uid, response, weight, user_id, color"],
    ),
    "missing uid": (
        lambda table: table.drop_columns(["uid"]),
        unchanged,
        CONFIG_CODE,
        [TRAIN, "'uid'", "columns.uid", "missing"],
    ),
    "missing label of validation": (
        unchanged,
        lambda table: table.drop_columns(["response"]),
        CONFIG_CODE,
        [VALIDATION, "'response'", "columns.label", "missing"],
    ),
    "missing entity": (
        lambda table: table.drop_columns(["user_id"]),
        unchanged,
        CONFIG_CODE,
        [TRAIN, "'user_id'", "missing"],
    ),
    "wrong type of feature": (
        column("x", lambda n: pa.array(["a"] * n)),
        unchanged,
        CONFIG_CODE,
        [TRAIN, "'x'", "string", "allowed: numbers"],
    ),
    "wrong type of entity": (
        column("user_id", lambda n: pa.array(np.ones(n))),
        column("user_id", lambda n: pa.array(np.ones(n))),
        CONFIG_CODE,
        [TRAIN, VALIDATION, "'user_id'", "double", "allowed: strings and integers"],
    ),
    "wrong type of label": (
        column("response", lambda n: pa.array(["yes"] * n)),
        unchanged,
        CONFIG_CODE,
        [TRAIN, "'response'", "string"],
    ),
    "duplicate uid": (
        values("uid", {5: 3}),
        unchanged,
        DATA_CODE,
        ["uid 3", f"{TRAIN} row 4", f"{TRAIN} row 6"],
    ),
    "null uid": (values("uid", {5: None}), unchanged, DATA_CODE, [TRAIN, "'uid'", "row 6", "null"]),
    "NaN and infinity": (
        values("x", {5: float("nan"), 7: float("inf")}),
        unchanged,
        DATA_CODE,
        [TRAIN, "'x'", "2 rows", "row 6 (uid 5) holds nan", "row 8 (uid 7) holds inf", "allowed: finite"],
    ),
    "NaN in validation": (
        unchanged,
        values("x", {9: float("nan")}),
        DATA_CODE,
        [VALIDATION, "'x'", "row 10 (uid 10009) holds nan", "allowed: finite"],
    ),
    "label outside {0, 1}": (
        values("response", {5: 2, 6: -1}),
        unchanged,
        DATA_CODE,
        [TRAIN, "'response'", "row 6 (uid 5) holds 2", "row 7 (uid 6) holds -1", "allowed: 0 or 1"],
    ),
    "negative weight": (
        values("weight", {5: -1.0}),
        unchanged,
        DATA_CODE,
        [TRAIN, "'weight'", "row 6 (uid 5) holds -1.0", "allowed: finite numbers, 0 or more"],
    ),
    "many bad rows": (
        column("weight", lambda n: pa.array(np.full(n, -1.0))),
        unchanged,
        DATA_CODE,
        [TRAIN, "'weight'", "400 rows", "row 1 (uid 0)", "row 5 (uid 4) holds -1.0, …"],
    ),
    "empty validation": (
        unchanged,
        lambda table: table.slice(0, 0),
        DATA_CODE,
        ["data.validation", "no rows", VALIDATION],
    ),
    "empty training": (lambda table: table.slice(0, 0), unchanged, DATA_CODE, ["data.train", "no rows"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(
    command: Cli,
    job_file: JobFile,
    on_cluster: list[str],
    train_rows: pa.Table,
    validation_rows: pa.Table,
    tmp_path: Path,
    case: str,
) -> None:
    train, validation, exit_code, parts = BAD_DATA[case]
    config = job_file(train=train(train_rows), validation=validation(validation_rows))
    done = command("train", config, "--quiet", *on_cluster)
    assert done.returncode == exit_code
    one_message(done, *parts)
    # No model and no store: only what the job has finished, for it can be resumed with better data.
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".gdmix"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (values("response", {5: 2}), ["'response'", "row 6 (uid 5) holds 2", "allowed: 0 or 1"]),
        (values("uid", {5: 3}), ["uid 3", "row 4", "row 6"]),
        (values("x", {5: float("inf")}), ["'x'", "row 6", "inf"]),
    ],
)
def test_rows_of_text_files_are_counted_alike(
    command: Cli,
    job_file: JobFile,
    on_cluster: list[str],
    train_rows: pa.Table,
    tmp_path: Path,
    ending: str,
    change: Change,
    parts: list[str],
) -> None:
    path = tmp_path / f"train.{ending}"
    if ending == "csv":
        csv.write_csv(change(train_rows), path)
    else:
        rows = change(train_rows).to_pylist()
        path.write_text("".join(json.dumps(row).replace("Infinity", '"inf"') + "\n" for row in rows))
    columns = {"uid": "uid", "label": "response", "weight": "weight"}
    config = job_file(data={"train": path.name, "columns": columns}, metrics=["auc"])
    done = command("train", config, "--quiet", *on_cluster)
    assert done.returncode == DATA_CODE
    one_message(done, path.name, *parts)


def test_few_rows_are_no_mistake(
    cli: Cli, job_file: JobFile, on_cluster: list[str], train_rows: pa.Table
) -> None:
    """Partitions without an entity, an entity with one row, a user of validation that training never saw."""
    few = pa.concat_tables([train_rows.slice(0, 5), train_rows.slice(399, 1)])
    few = few.set_column(
        few.column_names.index("user_id"), "user_id", pa.array(["a", "a", "b", "b", "b", "c"])
    )
    known = pa.array(["c"] * 50 + ["nobody"] * 50)
    validation = train_rows.slice(100, 100)
    validation = validation.set_column(validation.column_names.index("user_id"), "user_id", known)
    config = job_file(
        train=few,
        validation=validation,
        coordinates={
            "per_user": {"random_effect": "user_id", "features": ["all"], "partitions": 40, "l2": 1}
        },
    )
    done = cli("train", config, "--quiet", "--json", *on_cluster)
    assert done.returncode == 0, done.stderr
    [users] = json.loads(done.stdout)["coordinates"]
    assert (users["entities"], users["rows"], users["unconverged"]) == (3, 6, 0)
    assert users["validation"]["auc"] is not None


def test_json_of_a_failed_job(cli: Any, job_file: JobFile, on_cluster: list[str], train_rows: Any) -> None:
    config = job_file(train=values("weight", {5: -1.0})(train_rows))
    done = cli("train", config, "--quiet", "--json", *on_cluster)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["state"] == "failed"
    assert document["model"] == {"name": "shop", "version": None}
    assert document["coordinates"] == []
    assert document["output"] is None
    assert done.stderr.count("gdmix-cli: ") == 1


@pytest.mark.parametrize("name", ["train", "validate"])
@pytest.mark.parametrize("fault", ["missing", "damaged", "no match", "empty directory"])
def test_files_that_cannot_be_read(
    command: Cli, job_file: JobFile, on_cluster: list[str], tmp_path: Path, name: str, fault: str
) -> None:
    sources = {"no match": "rows-*.parquet", "empty directory": "rows"}
    config = job_file(
        data={"train": sources.get(fault, TRAIN), "columns": {"uid": "uid", "label": "response"}}
    )
    if fault == "missing":
        (tmp_path / TRAIN).unlink()
    elif fault == "damaged":
        whole = (tmp_path / TRAIN).read_bytes()
        (tmp_path / TRAIN).write_bytes(whole[: len(whole) // 2])
    elif fault == "empty directory":
        (tmp_path / "rows").mkdir()
    options = ["--quiet", *on_cluster] if name == "train" else ["--data"]
    done = command(name, config, *options)
    assert done.returncode == (DATA_CODE if fault == "damaged" else CONFIG_CODE)
    named = str(tmp_path / sources.get(fault, TRAIN))
    one_message(done, named)


def test_a_file_that_cannot_be_opened(
    command: Cli, job_file: JobFile, on_cluster: list[str], tmp_path: Path
) -> None:
    config, path, reason = job_file(), tmp_path / TRAIN, "Permission denied"
    if os.geteuid() == 0:  # the superuser may read everything, but cannot follow a link to itself either
        path.unlink()
        path.symlink_to(path)
        reason = "Too many levels of symbolic links"
    else:
        path.chmod(0)
    done = command("train", config, "--quiet", *on_cluster)
    assert done.returncode in {DATA_CODE, CONFIG_CODE}
    one_message(done, TRAIN, reason)


def test_validate_looks_at_the_data_without_a_cluster(
    command: Cli, job_file: JobFile, train_rows: pa.Table, tmp_path: Path
) -> None:
    config = job_file(train=train_rows.drop_columns(["x", "weight"]))
    assert command("validate", config).returncode == 0
    done = command("validate", config, "--data")
    assert done.returncode == 2
    one_message(done, "2 problems", TRAIN, "'x'", "'weight'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", TRAIN, VALIDATION]


def test_an_output_that_cannot_be_written(cli: Any, job_file: JobFile, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a directory", encoding="utf-8")
    done = cli("train", job_file(), "--workers", "1")
    assert done.returncode == 2
    one_message(done, str(tmp_path / "out"), "cannot be written to", "Not a directory")


# ---- the coordinator -------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address of this machine where nothing listens, kept from everybody else."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_nobody_there(cli: Any, job_file: JobFile, closed_port: str, tmp_path: Path) -> None:
    done = cli("train", job_file(), "--coordinator", closed_port)
    assert done.returncode == 3
    one_message(done, f"cannot reach the coordinator at {closed_port}", "connection refused", "gdmix-cli up")
    assert not (tmp_path / "out").exists()


def test_nobody_of_that_name(command: Cli) -> None:
    done = command("jobs", "cancel", "j", "--coordinator", "no-such-host.invalid:50051")
    assert done.returncode == 3
    one_message(done, "no-such-host.invalid:50051", "no host of that name")


def test_somebody_else_there(command: Cli) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = command("jobs", "list", "--coordinator", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert done.returncode == 2
    one_message(done, f"127.0.0.1:{port}", "no coordinator")


@pytest.mark.parametrize("given", ["no token", "wrong token", "wrong token in a file"])
def test_without_the_token(cli: Any, cluster: LocalCluster, tmp_path: Path, given: str) -> None:
    wrong = "an-entirely-wrong-token"
    file = tmp_path / "token"
    file.write_text(wrong + "\n", encoding="ascii")
    file.chmod(0o600)
    options = ["--token-file", file] if given.endswith("file") else []
    variables = {"GDMIX_TOKEN": wrong} if given == "wrong token" else {}
    done = cli("jobs", "list", "--coordinator", cluster.address, *options, **variables)
    assert done.returncode == 4
    message = one_message(done, "token")
    assert wrong not in message
    assert cluster.token_file.read_text(encoding="ascii").strip() not in message


def test_a_token_file_that_others_can_read(command: Cli, cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("an-entirely-wrong-token\n", encoding="ascii")
    file.chmod(0o644)
    done = command("jobs", "list", "--coordinator", cluster.address, "--token-file", file)
    assert done.returncode in {2, 4}
    one_message(done, str(file))


CERTIFICATES = Path(__file__).parents[1] / "server" / "certificates"


def test_tls_asked_of_a_coordinator_without(cluster: LocalCluster) -> None:
    connection = connection_to(cluster.address, tls_ca=CERTIFICATES / "authority.pem")
    with Client(connection) as client, pytest.raises(Unavailable) as caught:
        client.cancel("j")
    assert f"{cluster.address}: it does not speak TLS: leave --tls-ca" in str(caught.value)


@pytest.fixture
def tls_address() -> Iterator[str]:
    """Address of a server that speaks TLS and knows no method."""
    key, certificate = (CERTIFICATES / name for name in ("server-key.pem", "server.pem"))
    pair = (key.read_bytes(), certificate.read_bytes())
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("authority", "says"),
    [(None, "needs --tls-ca"), ("client.pem", "not signed by the authority of --tls-ca")],
)
def test_tls_without_the_right_authority(
    command: Cli, tls_address: str, authority: str | None, says: str
) -> None:
    options = ["--tls-ca", CERTIFICATES / authority] if authority else []
    done = command("jobs", "cancel", "j", "--coordinator", tls_address, *options)
    assert done.returncode == 3
    one_message(done, tls_address, says)


def test_an_authority_that_is_none(command: Cli, tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text("nothing of the sort", encoding="utf-8")
    done = command("jobs", "list", "--coordinator", "127.0.0.1:1", "--tls-ca", authority)
    assert done.returncode == 2
    one_message(done, str(authority), "PEM")


@pytest.mark.parametrize("name", ["show", "watch", "logs", "cancel", "resume", "delete"])
def test_no_such_job(command: Cli, on_cluster: list[str], name: str) -> None:
    done = command("jobs", name, "no-such-job", *on_cluster)
    assert done.returncode == 2
    one_message(done, "'no-such-job'")


def test_a_store_that_does_not_answer_is_noticed_before_anything_is_read(
    cli: Any, job_file: JobFile, cluster: LocalCluster, on_cluster: list[str]
) -> None:
    done = cli("train", job_file(store="redis://127.0.0.1:1/0"), "--quiet", *on_cluster)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    with cluster.client() as client:
        [job] = client.list(1)
        stages = {getattr(event.detail, "stage", "") for event in client.watch(job.job_id)}
    assert "looking at the store" in stages
    assert "inspecting the data" not in stages
