"""Looking at a job's input where it lies in several sources: which column is read from which, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdmix_core.config import DataConfig, FeatureColumn, ScoreFiles
from gdmix_core.data.inspection import inspect_data
from gdmix_core.errors import ConfigError, DataError, GdmixError
from gdmix_core.tasks import MAIN_SOURCE, EncodingSpec, Split, score_source

ROLES = ("train", "validation")


class Files:
    """Parquet files of a job below a directory; every call writes both roles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: dict[str, Any] = {}
        self.scores: dict[str, ScoreFiles] = {}
        self.write("", {"label": [0.0, 1.0]})

    def path(self, source: str, role: str, number: int = 0) -> Path:
        return self.root / f"{source or 'main'}-{role}-{number}.parquet"

    def write(
        self, source: str, *columns: dict[str, Any], uid: str = "uid", roles: tuple[str, ...] = ROLES
    ) -> None:
        """Write one file of two rows for each set of columns."""
        files: dict[str, list[str]] = {}
        for role in roles:
            for number, of_file in enumerate(columns):
                path = self.path(source, role, number)
                pq.write_table(pa.table({uid: [1, 2], **of_file}), path)
                files.setdefault(role, []).append(str(path))
        if source:
            self.data.setdefault("sources", {})[source] = {**files, "uid": None if uid == "uid" else uid}
        else:
            self.data |= files

    def write_scores(self, name: str, columns: dict[str, Any], **keys: str) -> None:
        paths = {role: self.path(f"{name}-scores", role) for role in ROLES}
        for path in paths.values():
            pq.write_table(pa.table(columns), path)
        self.scores[name] = ScoreFiles(train=str(paths["train"]), validation=str(paths["validation"]), **keys)

    def inspect(
        self,
        features: dict[str, list[Any]] | None = None,
        entities: tuple[str, ...] = (),
        **columns: Any,
    ) -> tuple[tuple[Split, ...], EncodingSpec]:
        config = DataConfig.model_validate({**self.data, "columns": columns})
        bags = {
            bag: tuple(FeatureColumn.model_validate(column) for column in of_bag)
            for bag, of_bag in (features or {}).items()
        }
        return inspect_data(config, bags, entities, "logistic_regression", self.scores)

    def message(self, error: type[GdmixError], *args: Any, **columns: Any) -> str:
        with pytest.raises(error) as caught:
            self.inspect(*args, **columns)
        assert type(caught.value) is error
        return str(caught.value)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def sources_of(encoding: EncodingSpec) -> dict[str, str]:
    return {f"{c.bag}.{c.column.column}": c.source for c in encoding.columns}


# ---- which source ------------------------------------------------------------------------------------------


def test_splits_of_all_sources_follow_those_of_data_role_by_role(files: Files) -> None:
    files.write("zebra", {"z": [1.0, 2.0]}, {"z": [1.0, 2.0]}, uid="key")
    files.write("ape", {"a": [1.0, 2.0]})
    files.write_scores("outside", {"id": [1, 2], "logit": [0.0, 1.0]}, uid="id", score="logit")
    splits, encoding = files.inspect({"z": ["z"], "a": ["a"]})
    order = [MAIN_SOURCE, "zebra", "zebra", "ape", score_source("outside")]  # as the config names them
    assert [(split.role, split.source) for split in splits] == [
        (role, source) for role in ROLES for source in order
    ]
    assert [Path(split.path).name for split in splits][1:3] == [
        "zebra-train-0.parquet",
        "zebra-train-1.parquet",
    ]
    assert [encoding.uid_column(split.source) for split in splits[:5]] == ["uid", "key", "key", "uid", "id"]
    assert encoding.external == files.scores


def test_a_column_is_read_from_the_first_source_that_has_it(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "everywhere": [1.0, 2.0]})
    files.write("one", {"everywhere": [3.0, 4.0], "further": ["a", "b"]})
    files.write("two", {"everywhere": [5.0, 6.0], "further": [7.0, 8.0], "last": [[0.5], [0.25]]})
    features = {"x": ["everywhere"], "y": ["further"], "z": ["last"]}
    _, encoding = files.inspect(features)
    assert sources_of(encoding) == {"x.everywhere": MAIN_SOURCE, "y.further": "one", "z.last": "two"}
    # The kind is that of the source's type, and so is a vector's length.
    assert [c.column.kind for c in encoding.columns] == ["numeric", "categorical", "vector"]
    assert encoding.columns[2].dimension == 1


def test_a_source_that_is_asked_for_wins(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "x": [1.0, 2.0], "v": [[1.0], [2.0]]})
    files.write("one", {"x": [3.0, 4.0]})
    files.write("two", {"x": ["a", "b"], "v": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]})
    features = {
        "x": [{"column": "x", "source": "two"}],
        "v": [{"column": "v", "source": "two"}],
        "other": [{"column": "x", "source": "one"}],
    }
    _, encoding = files.inspect(features)
    assert sources_of(encoding) == {"x.x": "two", "v.v": "two", "other.x": "one"}
    assert [c.column.kind for c in encoding.columns] == ["categorical", "vector", "numeric"]
    assert encoding.columns[1].dimension == 3


def test_entity_columns_too_come_from_the_first_source_that_has_them(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "user": [1, 2]})
    files.write("ids", {"user": [3, 4], "movie": ["a", "b"]})
    _, encoding = files.inspect(None, ("user", "movie"))
    assert encoding.entity_columns == ("user", "movie")
    assert encoding.entity_sources == {"movie": "ids"}


def test_scores_files_lend_no_features(files: Files) -> None:
    """A column that only a file of scores has is missing, not found there."""
    files.write_scores("outside", {"uid": [1, 2], "score": [0.0, 1.0], "x": [1.0, 2.0]})
    text = files.message(ConfigError, {"b": ["x"]}, ("x",))
    main = files.path("", "train")
    assert f"{main}: column 'x' (features.b, kind auto) is missing; the file has uid, label" in text
    assert f"{main}: column 'x' (entity id) is missing" in text
    assert str(files.path("outside-scores", "train")) not in text


def test_a_bag_over_two_sources_is_an_error_that_says_where_each_column_lies(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "near": [1.0, 2.0]})
    files.write("more", {"far": [1.0, 2.0]})
    text = files.message(ConfigError, {"mixed": ["near", "far"], "fine": ["far"]})
    assert text == (
        "features.mixed: columns of different sources (near in data, far in more); give each a bag"
    )


# ---- what is missing ---------------------------------------------------------------------------------------


def test_missing_columns_name_the_file_and_what_it_has(files: Files) -> None:
    files.write("more", {"x": [1.0, 2.0]}, {"other": [1.0, 2.0]}, uid="key")
    files.data["sources"]["more"]["uid"] = "id"
    text = files.message(ConfigError, {"b": ["x"]})
    for role in ROLES:
        first, second = (files.path("more", role, number) for number in range(2))
        assert f"{first}: column 'id' (columns.uid) is missing; the file has key, x" in text
        assert f"{second}: column 'x' (features.b, kind numeric) is missing; the file has key, other" in text
    assert text.startswith("6 problems with the data:")


def test_a_column_asked_of_a_source_that_lacks_it_is_missing_there(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "x": [1.0, 2.0]})
    files.write("more", {"y": [1.0, 2.0]})
    text = files.message(ConfigError, {"b": [{"column": "x", "kind": "numeric", "source": "more"}]})
    path = files.path("more", "train")
    assert f"{path}: column 'x' (features.b, kind numeric) is missing; the file has uid, y" in text


def test_further_sources_need_no_label_and_no_weight(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "weight": [1.0, 2.0]})
    files.write("more", {"x": [1.0, 2.0]})
    _, encoding = files.inspect({"b": ["x"]}, weight="weight")
    assert encoding.data.columns.weight == "weight"


def test_types_of_a_further_source_are_checked(files: Files) -> None:
    files.write("more", {"x": ["a", "b"], "user": [0.5, 1.5]}, uid="key")
    pq.write_table(
        pa.table({"key": ["one", "two"], "x": ["a", "b"], "user": [0.5, 1.5]}), files.path("more", "train")
    )
    text = files.message(ConfigError, {"b": [{"column": "x", "kind": "numeric"}]}, ("user",))
    path = files.path("more", "train")
    assert f"{path}: column 'key' (columns.uid): found type string; allowed: integers" in text
    assert f"{path}: column 'x' (features.b, kind numeric): found type string; allowed: numbers" in text
    assert f"{path}: column 'user' (entity id): found type double; allowed: strings and integers" in text


def test_files_that_are_not_there_name_their_place_in_the_config(files: Files) -> None:
    files.write("more", {"x": [1.0, 2.0]})
    files.data["sources"]["more"]["validation"] = [str(files.root / "gone.parquet")]
    files.scores["outside"] = ScoreFiles(
        train=str(files.root / "nowhere/*.csv"), validation=str(files.root / "lost.csv")
    )
    text = files.message(ConfigError, {"b": ["x"]})
    assert f"data.sources.more.validation: '{files.root}/gone.parquet': no such file" in text
    assert f"coordinates.outside.scores.train: '{files.root}/nowhere/*.csv': no file matches" in text
    assert f"coordinates.outside.scores.validation: '{files.root}/lost.csv': no such file" in text
    assert text.startswith("3 problems")


def test_a_further_source_without_rows_is_an_error(files: Files) -> None:
    files.write("more", {"x": [1.0, 2.0]})
    pq.write_table(pa.table({"uid": [1], "x": [1.0]}).slice(0, 0), files.path("more", "validation"))
    text = files.message(DataError, {"b": ["x"]})
    assert text == f"data.sources.more.validation: no rows in {files.path('more', 'validation')}"


# ---- files of scores ---------------------------------------------------------------------------------------


def test_files_of_scores_need_the_columns_that_the_config_names(files: Files) -> None:
    files.write_scores("outside", {"uid": [1, 2], "prediction": [0.0, 1.0]}, uid="key")
    text = files.message(ConfigError)
    for role in ROLES:
        path = files.path("outside-scores", role)
        assert f"{path}: column 'key' (columns.uid) is missing; the file has uid, prediction" in text
        assert f"{path}: column 'score' (score) is missing; the file has uid, prediction" in text
    assert text.startswith("4 problems")


def test_scores_are_numbers(files: Files) -> None:
    files.write_scores("outside", {"uid": [1, 2], "score": ["high", "low"]})
    path = files.path("outside-scores", "train")
    assert f"{path}: column 'score' (score): found type string; allowed: numbers" in files.message(
        ConfigError
    )


def test_two_outside_models_each_have_their_files(files: Files) -> None:
    files.write_scores("first", {"uid": [1, 2], "score": [0.0, 1.0]})
    files.write_scores("second", {"row": [1, 2], "logit": [0.0, 1.0]}, uid="row", score="logit")
    splits, encoding = files.inspect()
    held = {split.source: Path(split.path).name for split in splits if split.role == "train"}
    assert held == {
        MAIN_SOURCE: "main-train-0.parquet",
        "scores:first": "first-scores-train-0.parquet",
        "scores:second": "second-scores-train-0.parquet",
    }
    assert encoding.uid_column("scores:second") == "row"


# ---- optional roles ----------------------------------------------------------------------------------------


def test_an_optional_role_that_no_file_has_is_none(files: Files) -> None:
    _, encoding = files.inspect(weight="weight", offset="offset", optional=["weight", "offset"])
    assert (encoding.data.columns.weight, encoding.data.columns.offset) == (None, None)


def test_an_optional_label_that_no_file_has_is_empty(files: Files) -> None:
    files.write("", {"x": [1.0, 2.0]})
    _, encoding = files.inspect({"b": ["x"]}, optional=["label"])
    assert encoding.data.columns.label == ""


def test_an_optional_role_that_is_there_is_taken(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "w": [1.0, 2.0]})
    _, encoding = files.inspect(weight="w", offset="o", optional=["label", "weight", "offset"])
    columns = encoding.data.columns
    assert (columns.label, columns.weight, columns.offset) == ("label", "w", None)


def test_an_optional_role_is_in_all_files_or_in_none(files: Files) -> None:
    files.write("", {"label": [0.0, 1.0], "w": [1.0, 2.0]}, {"label": [0.0, 1.0]})
    text = files.message(ConfigError, weight="w", optional=["weight"])
    for role in ROLES:
        path = files.path("", role, 1)
        assert f"{path}: column 'w' (columns.weight) is missing; the file has uid, label" in text
    assert text.startswith("2 problems")


def test_a_further_sources_column_does_not_count_as_the_role(files: Files) -> None:
    files.write("more", {"o": [1.0, 2.0], "x": [1.0, 2.0]})
    _, encoding = files.inspect({"b": ["x"]}, offset="o", optional=["offset"])
    assert encoding.data.columns.offset is None


def test_a_role_that_is_not_optional_is_missing(files: Files) -> None:
    text = files.message(ConfigError, weight="w", offset="o", optional=["offset"])
    assert "column 'w' (columns.weight) is missing" in text
    assert "columns.offset" not in text


# ---- passive folders ---------------------------------------------------------------------------------------


def test_the_folder_passive_of_a_training_directory_is_scored_only(tmp_path: Path) -> None:
    names = ("a.parquet", "passive/b.parquet", "deeper/passive/c.parquet")
    for role in ROLES:
        for name in names:
            path = tmp_path / role / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"uid": [1, 2], "label": [0.0, 1.0]}), path)
    data = DataConfig.model_validate({role: str(tmp_path / role) for role in ROLES})
    splits, _ = inspect_data(data, {}, (), "logistic_regression")
    passive = {str(Path(split.path).relative_to(tmp_path)) for split in splits if split.passive}
    assert passive == {"train/passive/b.parquet"}
    # Named as what it is, a file is trained on.
    data = DataConfig.model_validate({"train": str(tmp_path / "train/passive/b.parquet")})
    assert not inspect_data(data, {}, (), "logistic_regression")[0][0].passive


def test_a_vector_of_a_further_source_has_the_length_of_its_names(files: Files) -> None:
    names = files.root / "names.csv"
    names.write_text("a,\nb,\nc,\n")
    files.write("more", {"v": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})
    features = {"b": [{"column": "v", "kind": "vector", "names": str(names)}]}
    _, encoding = files.inspect(features)
    assert (encoding.columns[0].source, encoding.columns[0].dimension) == ("more", 3)


def test_an_optional_weight_that_only_another_source_has_is_not_passed_over(files: Files) -> None:
    files.write("more", {"w": [1.0, 2.0], "x": [1.0, 2.0]})
    columns = {"weight": "w", "optional": ["weight"]}
    assert "column 'w' is in more, not in data" in files.message(ConfigError, {"b": ["x"]}, **columns)
    files.write("", {"label": [0.0, 1.0], "w": [1.0, 1.0]})
    _, encoding = files.inspect({"b": ["x"]}, **columns)
    assert encoding.data.columns.weight == "w"
