"""Preparing data: inspect, index, encode, home shards, partitions."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdmix_core.config import DataConfig, FeatureColumn, ScoreFiles
from gdmix_core.config.data import FileFormat
from gdmix_core.data.layout import DesignSpec, GroupingSpec, InputSpec
from gdmix_core.tasks.files import MAIN_SOURCE, score_source
from gdmix_core.tasks.task import Role, Task, TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A piece of input that one unit reads: a file, or row groups of a Parquet file."""

    role: Role
    path: str
    format: FileFormat
    source: str = MAIN_SOURCE
    """Which of the config's sources it belongs to, `MAIN_SOURCE` or `score_source(...)`."""
    metadata: str | None = None
    """TFRecord: the file that describes the records."""
    passive: bool = False
    """Its rows are scored, not trained on: upstream's Spark job put them into a folder `passive`."""
    first_row_group: int = 0
    row_groups: int | None = None
    """None: the whole file."""
    first_row: int = 0
    """Row number, in the file, of the first row (0-based); known for Parquet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedColumn:
    """A feature column whose `auto` kind has been settled by the data's type."""

    bag: str
    column: FeatureColumn
    dimension: int | None = None
    """vector: its length."""
    source: str = MAIN_SOURCE
    """Which source holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpec:
    """What every row becomes."""

    data: DataConfig
    """Roles whose optional column is absent from the files are None, an absent label ""."""
    columns: tuple[ResolvedColumn, ...]
    entity_columns: tuple[str, ...]
    """Columns whose values are entity ids: of random effects and of per-entity metrics."""
    task: str
    """Decides which labels are allowed."""
    entity_sources: dict[str, str] = field(default_factory=dict)
    """Which source holds an entity column, where it is not the main one."""
    external: dict[str, ScoreFiles] = field(default_factory=dict)
    """Files of scores by external fixed effect."""
    inputs: dict[str, tuple[InputSpec, ...]] = field(default_factory=dict)
    """Columns that plug-ins read, by coordinate; sources and dimensions are known."""

    def uid_column(self, source: str) -> str:
        """Return the column of the row id in the files of a source."""
        for coordinate, files in self.external.items():
            if source == score_source(coordinate):
                return files.uid
        named = self.data.sources[source].uid if source != MAIN_SOURCE else None
        return named or self.data.columns.uid


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectData(Task):
    """Find the input files, check every column and its type, cut the input into splits."""

    kind = "inspect_data"
    data: DataConfig
    features: dict[str, tuple[FeatureColumn, ...]]
    entity_columns: tuple[str, ...]
    task: str
    external: dict[str, ScoreFiles] = field(default_factory=dict)
    """Files of scores by external fixed effect."""
    inputs: dict[str, tuple[InputSpec, ...]] = field(default_factory=dict)
    """Columns that plug-ins read, by coordinate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInspected(TaskResult):
    """The input, cut into splits, and what its rows become."""

    splits: tuple[Split, ...]
    """Training splits first, each role in the order of its sorted file names."""
    encoding: EncodingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFeatures(Task):
    """Collect one split's terms, counts and moments (training) and its row count (both roles)."""

    kind = "index_features"
    split: Split
    encoding: EncodingSpec
    count_only: bool = False
    """Only count the rows: the index is that of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesIndexed(TaskResult):
    """A partial index lies in the attempt's directory."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeIndex(Task):
    """Merge partial indexes, in split order, into the feature index of the job."""

    kind = "merge_index"
    encoding: EncodingSpec
    partials: tuple[str, ...]
    """Directories of the training splits' partial indexes."""
    initial: str | None = None
    """Directory of the model to begin with: its terms stay in the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMerged(TaskResult):
    """The job's feature index lies in the attempt's directory."""

    bag_sizes: dict[str, int]
    schema_fingerprint: str
    """16 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSplit(Task):
    """Encode the rows of one split and spill them by home shard."""

    kind = "encode_split"
    split: Split
    encoding: EncodingSpec
    index: str
    """Directory of the merged index."""
    shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEncoded(TaskResult):
    """The split's rows lie in the attempt's directory, by home shard."""

    rows: int
    nulls: dict[str, int]
    """Null values by column (numeric nulls count as 0)."""
    unknown: dict[str, int]
    """Feature values the index does not know, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildShard(Task):
    """Gather one home shard from all spills, sort it by uid, refuse duplicate uids, lay out its files."""

    kind = "build_shard"
    role: Role
    shard: int
    spills: dict[str, tuple[str, ...]]
    """Directories of the role's encoded splits by source, in split order; the main source first."""
    bag_sizes: dict[str, int]
    designs: tuple[DesignSpec, ...]
    groupings: tuple[GroupingSpec, ...]
    external: tuple[str, ...] = ()
    """External fixed effects, whose score blocks are written."""
    inputs: dict[str, tuple[InputSpec, ...]] = field(default_factory=dict)
    """Columns that plug-ins read, by coordinate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """Rows of a home shard whose uid is in one source but not in the other."""

    source: str
    missing: int
    """Rows of the data that the source does not have."""
    missing_examples: tuple[int, ...]
    """Uids, at most 5."""
    extra: int
    """Rows of the source that the data do not have."""
    extra_examples: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBuilt(TaskResult):
    """A home shard's files lie in the attempt's directory."""

    rows: int
    nonzeros: dict[str, int]
    """Stored entries by fixed-effect coordinate."""
    without_entity: dict[str, int]
    """Rows that have no entity, by grouping."""
    weight: float
    """Sum of the rows' weights."""
    unmatched: tuple[Unmatched, ...] = ()
    """What the further sources lack or have too much, only sources that do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPartition(Task):
    """Gather one partition of a grouping from all home shards, sorted by entity and row id."""

    kind = "build_partition"
    role: Role
    grouping: GroupingSpec
    partition: int
    shards: tuple[str, ...]
    """Directories of the role's home shards, in shard order."""
    scoring: bool = False
    """Training rows too are only scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionBuilt(TaskResult):
    """A partition's file lies in the attempt's directory."""

    rows: int
    entities: int
    largest_entity: int
    """Rows of the largest entity."""
