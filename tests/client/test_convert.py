"""Bringing a job over from LinkedIn GDMix: its config as a job config, and data in the layout that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import gdmix_client.movielens_gdmix as layout
from gdmix_client.cli.app import app
from gdmix_client.movielens import GENRES, RATINGS
from gdmix_core.config import load_config
from gdmix_core.config.load import load_with_notes
from gdmix_core.errors import DataError, MissingDependency

EXAMPLE = Path(__file__).parents[2] / "examples/movielens/lr-movieLens.yaml"
JOB = """\
output_dir: out/lr
store: lmdb:store
initial_model: /models/1
fixed_effect_config:
  global: {feature_bag: g, feature_file: d/names, training_data_dir: d/t, validation_data_dir: "s3://b/v",
           l2_reg_weight: 2, variance_mode: FULL, lbfgs_tolerance: 1.0e-12,
           gdmix_config: &g {label_column_name: y, uid_column_name: uid}}
random_effect_config:
  per-user: {partition_entity: user, feature_bag: u, training_data_dir: /abs/t, validation_data_dir: e/v,
             metadata_file: e/meta.json, has_intercept: false, max_num_of_samples_per_model: 9, gdmix_config: *g}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "jobs" / "lr.yaml"
    path.parent.mkdir()
    path.write_text(JOB)
    return path


# ---- configs ---------------------------------------------------------------------------------------------


def test_the_converted_config_says_the_same(job: Path) -> None:
    done = run("convert", job)
    assert done.exit_code == 0
    assert done.stderr == "these have no meaning here and are ignored: lbfgs_tolerance\n"
    (job.parent / "native.yaml").write_text(done.stdout)
    assert load_with_notes(job.parent / "native.yaml") == (load_config(job), ())
    # … in the same order.
    assert list(load_config(job.parent / "native.yaml").coordinates) == ["global", "per-user"]
    assert run("convert", job).stdout == done.stdout


def test_the_example_says_the_same(tmp_path: Path) -> None:
    done = run("convert", EXAMPLE, "--out", tmp_path / "native.yaml")
    assert done.exit_code == 0
    assert load_config(tmp_path / "native.yaml") == load_config(EXAMPLE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uid_column_name: uid", "uid_column_name: uid, model_type: linear_regression"),
        ("uid_column_name: uid", "uid_column_name: uid, action: inference"),
        ("uid_column_name: uid", "uid_column_name: uid, weight_column_name: w"),
        ("l2_reg_weight: 2", "l2_reg_weight: 1e-9, data_format: avro, sparsity_threshold: 1.0e-4"),
        ("feature_bag: g, feature_file: d/names,", "offset_column_name: offset,"),
        ("has_intercept: false", "regularize_bias: false, num_partitions: 3"),
        (
            "output_dir: out/lr",
            "output_dir: /out/lr\npasses: 2\nsearch: {coordinates.per-user.l2: [1, 2], passes: [1]}",
        ),
        ("store: lmdb:store", "store: lmdb:/store\nkeep: 0\nmetrics: [logloss, 'auc:user']"),
        ("store: lmdb:store", "store: redis://h:1/0\nactivate: false"),
    ],
)
def test_whatever_is_converted_says_the_same(job: Path, tmp_path: Path, old: str, new: str) -> None:
    job.write_text(JOB.replace(old, new))
    assert job.read_text() != JOB
    assert run("convert", job, "--out", tmp_path / "native.yaml").exit_code == 0
    assert load_with_notes(tmp_path / "native.yaml") == (load_config(job), ())


def test_only_what_differs_from_the_defaults_is_written(job: Path) -> None:
    text = run("convert", job).stdout
    assert text.startswith(
        "# Made by gdmix-cli convert from lr.yaml, a config of LinkedIn GDMix.\nmodel: lr\n"
    )
    assert "  train: d/t\n" in text
    assert (
        "    fixed_effect: logistic_regression\n    features: [g]\n    l2: 2.0\n    variance: full\n" in text
    )
    for default in ("passes", "keep", "activate", "max_iterations", "uid:", "min_rows", "none", "null"):
        assert default not in text, default


@pytest.mark.parametrize("elsewhere", ["jobs/native.yaml", "native.yaml", "a/b/native.yaml"])
def test_relative_paths_stay_relative_and_mean_the_same(job: Path, tmp_path: Path, elsewhere: str) -> None:
    out = tmp_path / elsewhere
    out.parent.mkdir(parents=True, exist_ok=True)
    done = run("convert", job, "--out", out)
    assert done.exit_code == 0
    assert done.stdout == f"{out}: written; check it with gdmix-cli validate {out}\n"
    assert load_config(out) == load_config(job)
    text = out.read_text()
    assert str(tmp_path) not in text
    for absolute in ("/models/1", "/abs/t", "s3://b/v"):
        assert f" {absolute}" in text


def test_what_was_found_in_the_current_directory_stays_found(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d/t").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    done = run("convert", job)
    assert f"found in the current directory {tmp_path}: d/t" in done.stderr
    assert "  train: ../d/t\n" in done.stdout
    (job.parent / "native.yaml").write_text(done.stdout)
    assert load_config(job.parent / "native.yaml") == load_config(job)


def test_a_file_that_exists_is_kept(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "native.yaml"
    out.write_text("mine")
    refused = run("convert", job, "--out", out)
    assert refused.exit_code == 2
    assert refused.stderr == f"gdmix-cli: {out}: exists already; --force writes over it\n"
    assert out.read_text() == "mine"
    assert run("convert", job, "--out", out, "--force").exit_code == 0
    assert load_config(out) == load_config(job)


def test_where_nothing_can_be_written(job: Path, tmp_path: Path) -> None:
    refused = run("convert", job, "--out", tmp_path / "none" / "native.yaml")
    assert refused.exit_code == 2
    assert "native.yaml: cannot be written: No such file or directory" in refused.stderr


def test_what_is_no_config_of_gdmix(job: Path, tmp_path: Path) -> None:
    run("convert", job, "--out", tmp_path / "native.yaml")
    again = run("convert", tmp_path / "native.yaml")
    assert again.exit_code == 2
    assert "native.yaml: is a job config already, there is nothing to convert" in again.stderr
    job.write_text(JOB.replace("l2_reg_weight: 2", "l2: 2"))
    wrong = run("convert", job)
    assert wrong.exit_code == 2
    assert "lr.yaml:6: fixed_effect_config.global.l2: unknown key" in wrong.stderr


def test_notes_do_not_mix_with_results(job: Path) -> None:
    done = run("validate", job, "--json")
    assert json.loads(done.stdout)["coordinates"] == ["global", "per-user"]
    assert done.stderr == f"{job}: these have no meaning here and are ignored: lbfgs_tolerance\n"


def test_scores_of_somebody_elses_model_are_shown(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "{model: m, task: linear_regression, data: {train: t}, output: o, coordinates: {"
        "deep: {fixed_effect: external, scores: {train: s.csv}}, u: {random_effect: user}}}"
    )
    done = run("validate", tmp_path / "job.yaml")
    assert done.exit_code == 0
    assert f"deep        scores of {tmp_path}/s.csv" in done.stdout
    assert "u           a model per user" in done.stdout


# ---- data ------------------------------------------------------------------------------------------------


def ml100k() -> dict[str, bytes]:
    """Files of the form of GroupLens's ml-100k, of invented content; movie 1 has no date, person 1 no age."""
    rng = np.random.default_rng(5)
    user, movie = rng.integers(1, 944, RATINGS), rng.integers(1, 1683, RATINGS)
    user[0], movie[0] = 1, 1
    stars = rng.integers(1, 6, RATINGS)
    occupations = layout.PERSON_FEATURES[3:]
    rows = zip(user, movie, stars, strict=True)
    genres = rng.integers(0, 2, (1682, len(GENRES)))
    texts = {
        "u.data": [f"{u}\t{m}\t{s}\t8800" for u, m, s in rows],
        "u.item": [
            f"{m + 1}|M|{'' if m == 0 else '24-Jan-1997'}||x|" + "|".join(map(str, genres[m]))
            for m in range(1682)
        ],
        "u.user": [f"{p + 1}|{p % 50}|{'FM'[p % 2]}|{occupations[p % 21]}|0" for p in range(943)],
    }
    return {name: "\n".join(lines).encode("latin-1") for name, lines in texts.items()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ml-100k") / "ml-100k.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in ml100k().items():
            file.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def fetched(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The example's data, and what the command said."""
    pytest.importorskip("tensorflow")
    directory = tmp_path_factory.mktemp("gdmix")
    program = str(Path(sys.executable).with_name("gdmix-cli"))
    options = ["--layout", "gdmix", "--from", archive, "--directory", directory, "--json"]
    done = subprocess.run(
        [program, "data", "fetch", "movielens-100k", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return directory / "movieLens", json.loads(done.stdout)


def count(path: Path) -> int:
    """How many records a TFRecord file has."""
    import tensorflow as tf

    return sum(len(batch) for batch in tf.data.TFRecordDataset(str(path)).batch(10_000).as_numpy_iterator())


def examples(path: Path, limit: int) -> list[dict[str, list[float]]]:
    """The first records of a TFRecord file, by feature."""
    import tensorflow as tf

    found = []
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
        if number == limit:
            break
        features = tf.train.Example.FromString(record).features.feature
        found.append(
            {
                name: list(getattr(value, value.WhichOneof("kind")).value) if value.WhichOneof("kind") else []
                for name, value in features.items()
            }
        )
    return found


def test_the_layout_is_that_of_upstreams_example(fetched: tuple[Path, dict[str, Any]]) -> None:
    directory, said = fetched
    assert {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()} == {
        "README.txt",
        *(
            f"{bag}/{file}"
            for bag in ("global", "per_user", "per_movie")
            for file in (
                "trainingData/train_data.tfrecord",
                "validationData/validation_data.tfrecord",
                "metadata/tensor_metadata.json",
                f"featureList/{bag}",
            )
        ),
    }
    assert said["directory"] == str(directory)
    assert said["train_rows"] + said["validation_rows"] == RATINGS
    assert 0.79 < said["train_rows"] / RATINGS < 0.81


def test_features_are_listed_in_the_order_of_their_indices(fetched: tuple[Path, dict[str, Any]]) -> None:
    directory, said = fetched
    for bag, size, first, last in (
        ("global", 44, "age", "release_date"),
        ("per_user", 20, "unknown", "release_date"),
        ("per_movie", 24, "age", "writer"),
    ):
        lines = (directory / bag / "featureList" / bag).read_text().splitlines()
        assert (len(lines), lines[0], lines[-1]) == (size, f"{first},", f"{last},")
        metadata = json.loads((directory / bag / "metadata/tensor_metadata.json").read_text())
        assert metadata["features"][0] == {"name": bag, "dtype": "float", "shape": [size], "isSparse": True}
        assert [feature["name"] for feature in metadata["features"][1:]] == ["uid", "movie_id", "user_id"]
        assert metadata["labels"] == [{"name": "response", "dtype": "int", "shape": [], "isSparse": False}]
        assert metadata["numberOfTrainingSamples"] == said["train_rows"]
    genres = (directory / "per_user/featureList/per_user").read_text()
    assert "Childrens,\nComedy,\n" in genres
    assert "Film_Noir,\n" in genres
    assert "Sci_Fi,\n" in genres


def test_every_row_is_in_one_split_the_same_in_all_effects(fetched: tuple[Path, dict[str, Any]]) -> None:
    directory, said = fetched
    for role, rows in (("training", "train"), ("validation", "validation")):
        file = f"{role}Data/{rows if rows == 'train' else role}_data.tfrecord"
        uids = {
            bag: [int(record["uid"][0]) for record in examples(directory / bag / file, 500)]
            for bag in ("global", "per_user", "per_movie")
        }
        assert uids["global"] == uids["per_user"] == uids["per_movie"] == sorted(uids["global"])
        assert count(directory / "per_user" / file) == said[f"{rows}_rows"]


def test_the_split_never_changes() -> None:
    assert int(layout._in_training(np.arange(RATINGS)).sum()) == 80_017


def test_records_hold_what_the_data_say(
    fetched: tuple[Path, dict[str, Any]], archive: Path, tmp_path: Path
) -> None:
    directory, _ = fetched
    from gdmix_client.movielens import fetch_movielens

    done = fetch_movielens(tmp_path, archive)
    rows = pa.concat_tables(
        [pq.read_table(done.directory / f"{name}.parquet") for name in ("train", "validation")]
    ).sort_by("uid")
    person, movie = layout.PERSON_FEATURES, layout.MOVIE_FEATURES
    names = dict(zip(GENRES, movie, strict=False))
    for name in ("trainingData/train_data", "validationData/validation_data"):
        records = {
            bag: examples(directory / bag / f"{name}.tfrecord", 300)
            for bag in ("global", "per_user", "per_movie")
        }
        for wide, of_movie, of_person in zip(*records.values(), strict=True):
            row = rows.slice(int(wide["uid"][0]), 1).to_pylist()[0]
            for record in (wide, of_movie, of_person):
                assert [record[key] for key in ("user_id", "movie_id", "response")] == [
                    [row["user_id"]],
                    [row["movie_id"]],
                    [int(row["rating"] > 3)],
                ]
            about_person = {person.index(row["gender"]): 1.0, person.index(row["occupation"]): 1.0}
            if row["age"] > 0:
                about_person[0] = float(np.float32(row["age"]))
            about_movie = {movie.index(names[genre]): 1.0 for genre in row["genres"]}
            if row["release_year"] is not None:
                about_movie[len(movie) - 1] = float(np.float32(row["release_year"]))
            both = about_person | {len(person) + index: value for index, value in about_movie.items()}
            for record, bag, expected in (
                (wide, "global", both),
                (of_movie, "per_user", about_movie),
                (of_person, "per_movie", about_person),
            ):
                assert record[f"{bag}_indices"] == sorted(expected)
                assert record[f"{bag}_values"] == [expected[index] for index in sorted(expected)]


def test_files_of_ones_own_beside_them_stay(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    own = tmp_path / "movieLens/global/trainingData/part-2.tfrecord"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    layout.fetch_movielens_gdmix(tmp_path, archive)
    assert own.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".fetch-*"))


def test_an_occupation_that_the_data_set_has_not() -> None:
    with pytest.raises(DataError, match=r"^found 'plumber'; MovieLens-100K has F, M only$"):
        layout._positions(pa.chunked_array([["F", "plumber"]]), ("F", "M"))


def test_without_tensorflow_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, archive: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with pytest.raises(
        MissingDependency, match=r'^TFRecord files need TensorFlow: pip install "gdmix\[tensor'
    ):
        layout.fetch_movielens_gdmix(tmp_path, archive)
    assert list(tmp_path.iterdir()) == []
    refused = run(
        "data", "fetch", "movielens-100k", "--layout", "gdmix", "--directory", tmp_path, "--from", archive
    )
    assert refused.exit_code == 2
    assert 'pip install "gdmix[tensorflow]"' in refused.stderr


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    refused = run("data", "fetch", "movielens-100k", "--layout", "hdf5", "--directory", tmp_path)
    assert refused.exit_code == 2
    assert "'hdf5' is not one of 'parquet', 'gdmix'" in refused.stderr


def test_the_example_trains_as_it_is(
    fetched: tuple[Path, dict[str, Any]], on_cluster: tuple[str, ...], cli: Any
) -> None:
    directory, said = fetched
    config = directory.parent / EXAMPLE.name
    config.write_bytes(EXAMPLE.read_bytes())
    done = cli("train", config, "--json", *on_cluster)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [c["name"] for c in document["coordinates"]] == ["global", "per-user", "per-movie"]
    assert {c["rows"] for c in document["coordinates"]} == {said["train_rows"]}
    assert "have no meaning here and are ignored: spark_config, tfjob_config" in done.stderr
    output = directory.parent / "lr-training"
    for coordinate in document["coordinates"]:
        folder = output / coordinate["name"]
        summary = json.loads((folder / "metric" / "evalSummary.json").read_text())
        assert summary == {"auc": coordinate["validation"]["auc"]}
        assert list((folder / "models").glob("*.avro"))
        assert list((folder / "train_scores").glob("*.avro"))
        assert list((folder / "validation_scores").glob("*.avro"))
