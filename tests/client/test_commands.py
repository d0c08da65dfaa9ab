"""The commands on a real cluster: train, jobs, models, validate, doctor; their output for people and machines."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from gdmix_client import Client, Job, JobState, LocalCluster, Notice, Progress
from gdmix_client.cli.app import app
from gdmix_client.cli.report import TrainDocument

TRAIN_KEYS = {"job_id", "state", "model", "coordinates", "output", "seconds"}
COORDINATE_KEYS = {"name", "kind", "entities", "rows", "unconverged", "seconds", "validation"}
JOB_KEYS = {"submitted", "started", "ended", "error", "error_code", "reproducible", "job_output"}
VERSION_KEYS = {"model", "version", "state", "entities", "aliases", "store"}


def run(*arguments: object) -> Result:
    """Run a command inside this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> str:
    """Return what a command that succeeds prints on stdout."""
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def document(*arguments: object) -> Any:
    """Return the one JSON document that a command prints on stdout."""
    return json.loads(answer(*arguments, "--json"))


@dataclass(frozen=True)
class Trained:
    """A model of two versions, trained through the shared cluster."""

    jobs: tuple[Job, Job]
    options: list[str]
    store: str
    output: Path


@pytest.fixture
def trained(
    cluster: LocalCluster, on_cluster: list[str], job_file: Callable[..., Path], tmp_path: Path
) -> Trained:
    config = job_file()
    with cluster.client() as client:
        jobs = [client.wait(client.submit(config).job_id) for _ in range(2)]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 2, [job.error for job in jobs]
    return Trained((jobs[0], jobs[1]), on_cluster, f"lmdb:{tmp_path}/out/store", tmp_path / "out")


# ---- train -----------------------------------------------------------------------------------------------


def check_train_document(found: dict[str, Any], output: Path, version: int) -> None:
    TrainDocument.model_validate(found)
    assert set(found) == TRAIN_KEYS
    assert found["state"] == "succeeded"
    assert found["model"] == {"name": "shop", "version": version}
    assert found["output"] == str(output / "models" / str(version))
    assert Path(found["output"], "manifest.json").is_file()
    assert found["seconds"] > 0
    kinds = {c["name"]: (c["kind"], c["entities"], c["rows"]) for c in found["coordinates"]}
    assert kinds == {"global": ("fixed_effect", 1, 400), "per_user": ("random_effect", 11, 400)}
    for coordinate in found["coordinates"]:
        assert set(coordinate) == COORDINATE_KEYS
        assert list(coordinate["validation"]) == ["auc", "logloss", "auc:user_id"]
        assert coordinate["unconverged"] == 0
    first, last = (c["validation"]["auc"] for c in found["coordinates"])
    assert 0.5 < first < last < 1


def test_train_json_on_an_ephemeral_cluster(cli: Any, job_file: Callable[..., Path], tmp_path: Path) -> None:
    done = cli("train", job_file(), "--workers", "1", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    check_train_document(found, tmp_path / "out", 1)
    # Progress is on stderr, a plain line for each stage, nothing for terminals.
    assert "\x1b" not in done.stderr
    assert f"job {found['job_id']} is succeeded" in done.stderr
    assert "published version 1" in done.stderr
    # The job's journal stays below the output, and answers without a cluster.
    assert document("jobs", "list", "--output", tmp_path / "out")["jobs"][0]["job_id"] == found["job_id"]
    assert "published version 1" in answer("jobs", "logs", found["job_id"], "--output", tmp_path / "out")
    assert document("models", "list", "--output", tmp_path / "out")["versions"][0]["state"] == "active"


def test_train_on_a_coordinator(
    cli: Any, job_file: Callable[..., Path], on_cluster: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "elsewhere"
    done = cli("train", job_file(), *on_cluster, "--output", "other", "--store", f"lmdb:{store}", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    for part in ("global", "per_user", "auc:user_id", "version 1 (active)", str(store.name), "models verify"):
        assert part in done.stdout
    assert (tmp_path / "other" / "models" / "1" / "manifest.json").is_file()
    assert not (tmp_path / "out").exists()
    assert (store / "shop" / "active.json").is_file()
    assert not (tmp_path / "other" / ".gdmix" / "coordinator").exists()


def test_train_json_on_a_coordinator(
    job_file: Callable[..., Path], on_cluster: list[str], tmp_path: Path
) -> None:
    check_train_document(document("train", job_file(), *on_cluster), tmp_path / "out", 1)


def test_detach_and_watch(
    job_file: Callable[..., Path], on_cluster: list[str], cluster: LocalCluster
) -> None:
    done = run("train", job_file(), "--detach", *on_cluster)
    assert done.exit_code == 0
    job_id = done.stdout.strip()
    assert f"gdmix-cli jobs watch {job_id} --coordinator {cluster.address}" in done.stderr
    watched = document("jobs", "watch", job_id, *on_cluster)
    assert watched["job_id"] == job_id
    assert watched["state"] == "succeeded"
    # The story can be told again, and followed although it is over.
    story = answer("jobs", "logs", job_id, *on_cluster)
    assert story == answer("jobs", "logs", job_id, "--follow", *on_cluster)
    assert "per_user (pass 1): 11 entities, 400 rows" in story
    assert story.splitlines()[-1].endswith(f"job {job_id} is succeeded")


def test_detach_json(job_file: Callable[..., Path], on_cluster: list[str]) -> None:
    queued = document("train", job_file(), "--detach", *on_cluster)
    assert set(queued) == TRAIN_KEYS
    assert queued["state"] in {"queued", "running"}
    assert queued["output"] is None
    assert queued["seconds"] is None
    assert document("jobs", "watch", queued["job_id"], *on_cluster)["state"] == "succeeded"


def test_progress_on_a_terminal(
    cli_on_terminal: Callable[..., tuple[int, str]], job_file: Callable[..., Path], on_cluster: list[str]
) -> None:
    exit_code, screen = cli_on_terminal("train", job_file(), *on_cluster)
    assert exit_code == 0
    assert "\x1b[" in screen
    assert "global (pass 1)" in screen
    assert "published version 1" in screen
    assert "Traceback" not in screen


@pytest.fixture
def cli_on_terminal(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Return a function that runs gdmix-cli with a terminal as stderr."""
    import subprocess
    import sys

    ours, theirs = os.openpty()

    def run_on_terminal(*arguments: object) -> tuple[int, str]:
        program = str(Path(sys.executable).with_name("gdmix-cli"))
        seen: list[bytes] = []

        def read() -> None:
            while not seen or b"the end" not in seen[-1]:
                seen.append(os.read(ours, 4096))

        reader = threading.Thread(target=read)
        reader.start()
        done = subprocess.run(
            [program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        os.write(theirs, b"the end")
        reader.join()
        return done.returncode, b"".join(seen).decode(errors="replace")

    yield run_on_terminal
    os.close(ours)
    os.close(theirs)


# ---- jobs ------------------------------------------------------------------------------------------------


def test_jobs_list_and_show(trained: Trained) -> None:
    first, second = trained.jobs
    listed = document("jobs", "list", *trained.options, "--limit", 2)
    assert set(listed) == {"jobs"}
    assert [job["job_id"] for job in listed["jobs"]] == [second.job_id, first.job_id]
    for job in listed["jobs"]:
        assert set(job) == TRAIN_KEYS | JOB_KEYS
        TrainDocument.model_validate({key: job[key] for key in TRAIN_KEYS})
        assert job["submitted"] <= job["started"] <= job["ended"]
        assert job["error"] is None
        assert job["error_code"] is None
        assert job["reproducible"] is True
        assert job["job_output"] == str(trained.output)
    shown = document("jobs", "show", first.job_id, *trained.options)
    assert set(shown) == TRAIN_KEYS | JOB_KEYS | {"config"}
    assert shown["config"]["model"] == "shop"
    text = answer("jobs", "list", *trained.options)
    assert first.job_id in text
    assert second.job_id in text
    text = answer("jobs", "show", first.job_id, *trained.options)
    assert "succeeded" in text
    assert "per_user" in text


def test_cancel_resume_and_delete(
    cluster: LocalCluster, on_cluster: list[str], long_job: Path, tmp_path: Path
) -> None:
    with cluster.client() as client:
        job_id = client.submit(long_job).job_id
        for event in client.watch(job_id):
            if isinstance(event.detail, Progress) and event.detail.coordinate == "per_user":
                break
        assert "is cancell" in answer("jobs", "cancel", job_id, *on_cluster)
        assert client.wait(job_id).state is JobState.CANCELLED
        # Whoever watches a cancelled job is told so by the exit code.
        watched = run("jobs", "watch", job_id, "--quiet", *on_cluster)
        assert watched.exit_code == 130
        assert f"job {job_id} was cancelled" in watched.stderr
        again = run("jobs", "cancel", job_id, *on_cluster)
        assert again.exit_code == 1
        assert "cancelled" in again.stderr
        assert list((tmp_path / "out" / ".gdmix" / "jobs" / job_id).rglob("*.arrow"))
        resumed = document("jobs", "resume", job_id, "--quiet", *on_cluster)
        assert resumed["state"] == "succeeded"
        assert resumed["job_id"] == job_id
        refused = run("jobs", "resume", job_id, *on_cluster)
        assert refused.exit_code == 1
        assert "succeeded" in refused.stderr
    answer("jobs", "delete", job_id, *on_cluster)
    assert run("jobs", "show", job_id, *on_cluster).exit_code == 2
    assert Path(resumed["output"], "manifest.json").is_file()


def test_resume_detached_and_delete_while_it_runs(
    cluster: LocalCluster, on_cluster: list[str], long_job: Path
) -> None:
    with cluster.client() as client:
        job_id = client.submit(long_job).job_id
        client.cancel(job_id)
        assert client.wait(job_id).state is JobState.CANCELLED
        done = run("jobs", "resume", job_id, "--detach", *on_cluster)
        assert done.exit_code == 0
        assert done.stdout.strip() == job_id
        assert f"jobs watch {job_id}" in done.stderr
        refused = run("jobs", "delete", job_id, *on_cluster)
        assert refused.exit_code == 1
        assert job_id in refused.stderr
        client.cancel(job_id)
        assert client.wait(job_id).state is JobState.CANCELLED


def test_a_job_with_better_data_resumes(
    cluster: LocalCluster, on_cluster: list[str], job_file: Callable[..., Path], train_rows: Any
) -> None:
    config = job_file(train=train_rows.drop_columns(["x"]))
    failed = run("train", config, "--quiet", *on_cluster)
    assert failed.exit_code == 2
    job_id = failed.stderr.split("job ")[1].split()[0]
    job_file()
    assert document("jobs", "resume", job_id, "--quiet", *on_cluster)["state"] == "succeeded"


# ---- models ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["coordinator", "store", "output"])
def where(request: pytest.FixtureRequest, trained: Trained) -> list[str]:
    """The options that lead to the two versions, each way."""
    ways = {
        "coordinator": [*trained.options, "--store", trained.store],
        "store": ["--store", trained.store],
        "output": ["--output", str(trained.output)],
    }
    return ways[request.param]


def states(where: list[str]) -> dict[int, str]:
    """States of the versions of `shop`."""
    return {v["version"]: v["state"] for v in document("models", "list", "shop", *where)["versions"]}


def test_models_switch_and_delete(where: list[str], trained: Trained) -> None:
    listed = document("models", "list", *where)
    assert set(listed) == {"versions"}
    assert [version["version"] for version in listed["versions"]] == [2, 1]
    for version in listed["versions"]:
        assert set(version) == VERSION_KEYS
        assert version["entities"] == 11
        assert version["store"] == trained.store
    assert states(where) == {2: "active", 1: "superseded"}
    assert "version 1 of shop is active" in answer("models", "rollback", "shop", *where)
    assert states(where) == {2: "superseded", 1: "active"}
    nothing_older = run("models", "rollback", "shop", *where)
    assert nothing_older.exit_code == 2
    assert "no version older" in nothing_older.stderr
    assert "version 2 of shop is active" in answer("models", "activate", "shop", 2, *where)
    refused = run("models", "delete", "shop", 2, *where)
    assert refused.exit_code == 1
    assert "active" in refused.stderr
    assert "deleted" in answer("models", "delete", "shop", 1, *where)
    assert states(where) == {2: "active"}
    assert (trained.output / "models" / "1" / "manifest.json").is_file()


def test_models_show(where: list[str]) -> None:
    shown = document("models", "show", "shop", *where)
    assert set(shown) == VERSION_KEYS | {"manifest"}
    assert shown["version"] == 2
    assert [c["name"] for c in shown["manifest"]["coordinates"]] == ["global", "per_user"]
    assert document("models", "show", "shop", "--version", 1, *where)["version"] == 1
    text = answer("models", "show", "shop", *where)
    for part in ("version  2 (active)", "a model per user_id", "auc:user_id is the mean over"):
        assert part in text
    for missing in (["shop", "--version", "9"], ["no-such-model"]):
        done = run("models", "show", *missing, *where)
        assert done.exit_code == 2
        assert missing[-1] in done.stderr


def test_models_alias(where: list[str]) -> None:
    assert answer("models", "alias", "shop", *where) == "no aliases\n"
    answer("models", "alias", "shop", "champion", 1, *where)
    assert answer("models", "alias", "shop", "champion", *where) == "1\n"
    assert "champion" in answer("models", "alias", "shop", *where)
    assert document("models", "list", *where)["versions"][1]["aliases"] == ["champion"]
    refused = run("models", "delete", "shop", 1, *where)
    assert refused.exit_code == 1
    assert "champion" in refused.stderr
    answer("models", "alias", "shop", "champion", "--delete", *where)
    assert answer("models", "alias", "shop", *where) == "no aliases\n"
    for wrong in (["champion"], ["champion", "9"]):
        done = run("models", "alias", "shop", *wrong, *where)
        assert done.exit_code in {1, 2}
        assert wrong[-1] in done.stderr


def test_models_verify_and_publish(where: list[str], trained: Trained, tmp_path: Path) -> None:
    assert document("models", "verify", "shop", *where) == {
        "model": "shop",
        "version": 2,
        "store": trained.store,
        "entities": {"per_user": 11},
        "intact": True,
    }
    assert "version 1 of shop is intact" in answer("models", "verify", "shop", "--version", 1, *where)
    # The store is lost; a model directory fills a new one.
    new = f"lmdb:{tmp_path}/new"
    published = document("models", "publish", trained.output / "models" / "1", "--store", new)
    assert published == {
        "model": "shop",
        "version": 1,
        "activated": True,
        "winner": None,
        "entities": {"per_user": 11},
        "store": new,
    }
    text = answer("models", "publish", 2, "--output", trained.output, "--store", new, "--no-activate")
    assert "as version 2 of shop (sealed, not active): 11 entities" in text
    assert states(["--store", new]) == {2: "sealed", 1: "active"}
    assert document("models", "verify", "shop", "--version", 2, "--store", new)["intact"]


def test_models_without_naming_the_store(trained: Trained) -> None:
    """The coordinator knows where its jobs put a model: every command finds it there."""
    assert trained.store in {
        version["store"] for version in document("models", "list", "shop", *trained.options)["versions"]
    }
    assert document("models", "show", "shop", *trained.options)["store"] == trained.store
    assert document("models", "verify", "shop", *trained.options)["store"] == trained.store
    assert answer("models", "alias", "shop", *trained.options) == "no aliases\n"


def test_verify_notices_damage(trained: Trained) -> None:
    part = pq.read_table(trained.output / "models" / "2" / "per_user" / "part-00000.parquet")
    coefficient = part["coefficients"][0].values.to_numpy()[0]
    environment = trained.output / "store" / "shop" / "versions" / "2.lmdb"
    content = environment.read_bytes()
    before, after = (np.float64(value).tobytes() for value in (coefficient, coefficient + 1))
    assert before in content
    environment.write_bytes(content.replace(before, after))
    done = run("models", "verify", "shop", "--store", trained.store)
    assert done.exit_code == 1
    assert "version 2" in done.stderr
    assert "internal error" not in done.stderr


def test_models_of_an_emptied_store(trained: Trained) -> None:
    shutil.rmtree(trained.output / "store")
    done = run("models", "show", "shop", "--output", trained.output)
    assert done.exit_code == 2
    assert str(trained.output / "store") in done.stderr


# ---- validate and doctor ---------------------------------------------------------------------------------


def test_validate(job_file: Callable[..., Path]) -> None:
    config = job_file()
    assert "job.yaml: valid" in answer("validate", config)
    found = document("validate", config, "--data")
    assert set(found) == {"config", "valid", "model", "coordinates", "config_digest", "data"}
    assert found["valid"] is True
    assert found["coordinates"] == ["global", "per_user"]
    assert len(found["config_digest"]) == 64
    assert found["data"] == {
        "train_files": 1,
        "validation_files": 1,
        "columns": {"all.x": "numeric", "all.color": "categorical"},
    }


def test_validate_leaves_uploads_to_the_coordinator(job_file: Callable[..., Path]) -> None:
    outside = {"fixed_effect": "external", "scores": {"train": "ctr", "validation": "ctr-v"}}
    random = {"random_effect": "user_id", "features": ["all"]}
    done = run("validate", job_file(coordinates={"outside": outside, "per_user": random}), "--data")
    assert done.exit_code == 0, done.stderr
    assert "outside: uploaded scores are the coordinator's to look at" in done.stderr
    outside["scores"] = {"train": "ctr.parquet", "validation": "ctr-v.parquet"}
    done = run("validate", job_file(coordinates={"outside": outside, "per_user": random}), "--data")
    assert done.exit_code == 2
    assert "ctr.parquet': no such file" in done.stderr


def test_doctor(on_cluster: list[str], cluster: LocalCluster) -> None:
    found = document("doctor", *on_cluster)
    assert set(found) == {"healthy", "findings"}
    assert found["healthy"] is True
    checks = {finding["check"]: finding for finding in found["findings"]}
    assert {"python", "packages", "numerics", "machine", "cache", "kernels", "coordinator"} <= set(checks)
    for finding in found["findings"]:
        assert set(finding) == {"check", "verdict", "found", "mend"}
        assert finding["verdict"] in {"ok", "note", "bad"}
        assert finding["verdict"] == "ok" or finding["mend"]
    assert cluster.address in checks["coordinator"]["found"]


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("doctor", "--coordinator", "127.0.0.1:1", "--state-dir", tmp_path / "file" / "state")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("bad") and "coordinator" in line for line in lines)
    assert any(line.startswith("bad") and "state directory" in line for line in lines)
    assert any("gdmix-cli up" in line for line in lines)


# ---- notices ---------------------------------------------------------------------------------------------


def test_rows_without_an_entity_are_told(
    cluster: LocalCluster, job_file: Callable[..., Path], train_rows: Any
) -> None:
    import pyarrow as pa

    users = [None, None, *train_rows["user_id"].to_pylist()[2:]]
    position = train_rows.column_names.index("user_id")
    config = job_file(train=train_rows.set_column(position, "user_id", pa.array(users)))
    with cluster.client() as client:
        job = client.submit(config)
        notices = [e.detail.text for e in client.watch(job.job_id) if isinstance(e.detail, Notice)]
        per_user = client.get(job.job_id).kept_coordinates[1]
    assert per_user.rows == 398
    assert any("2" in text and "user_id" in text for text in notices)


def test_a_client_is_not_needed_to_end(cluster: LocalCluster, job_file: Callable[..., Path]) -> None:
    """A job goes on when whoever submitted it is gone."""
    with cluster.client() as client:
        job_id = client.submit(job_file()).job_id
    with Client(cluster.connection) as another:
        assert another.wait(job_id).state is JobState.SUCCEEDED
