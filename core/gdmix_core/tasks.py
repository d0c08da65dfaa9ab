"""The work a coordinator hands to its workers: one frozen dataclass for each task and for its result.

A *stage* of a job is a list of units of one task kind; a *unit* is one task, retried until it succeeds.
Every attempt of a unit writes into a directory of its own, `output`, under fixed file names (below); a
result says only what a coordinator needs to know, and later tasks name the accepted directories. So a result
of a worker that was thought dead can do no harm, and nothing is ever half-written under a name that is read.

Tasks and results cross the wire and lie in the journal as JSON (`to_json`, `task_from_json`,
`result_from_json`): coordinator and workers of different minor versions refuse each other, so the form needs
no versions of its own. Bulk numbers never travel in them: they lie in files, or are pushed as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter

from gdmix_core.config import DataConfig, FeatureColumn, ScoreFiles
from gdmix_core.config.data import FileFormat
from gdmix_core.data.layout import DesignSpec, GroupingSpec
from gdmix_core.metric_value import MetricValue
from gdmix_core.publish_ticket import PublishTicket

Role = Literal["train", "validation"]
MAIN_SOURCE = ""
"""The source of the files that hold labels, weights and offsets: `data` itself."""

PARTIAL_INDEX_FILE = "partial_index.arrow"
FEATURE_INDEX_FILE = "feature_index.parquet"
SPILL_FILE = "spill.arrow"
ROWS_FILE = "rows.arrow"
PARTITION_FILE = "partition.arrow"
SCORES_FILE = "scores.arrow"
VALIDATION_SCORES_FILE = "validation_scores.arrow"
OFFSETS_FILE = "offsets.arrow"
COEFFICIENTS_FILE = "coefficients.parquet"
THETA_FILE = "theta.arrow"
RUN_FILE = "run.arrow"
SPILL_PART_FILE = "store_part"


def design_file(coordinate: str) -> str:
    """Name of a home shard's design file for a fixed-effect coordinate."""
    return f"design-{coordinate}.arrow"


def grouping_file(grouping: str) -> str:
    """Name of a home shard's rows grouped by partition, for a random effect or a per-entity metric."""
    return f"grouping-{grouping}.arrow"


def external_directory(shard_directory: str, coordinate: str) -> str:
    """Where a home shard's directory holds the score block of an external fixed effect."""
    return f"{shard_directory}/external-{coordinate}"


def score_source(coordinate: str) -> str:
    """Name of the source that holds the scores of an external fixed effect; no config can give it."""
    return f"scores:{coordinate}"


def metric_offsets_file(grouping: str) -> str:
    """Name of a validation shard's linear predictors grouped by partition, for a per-entity metric."""
    return f"predictors-{grouping}.arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Base of all tasks; `kind` names the class on the wire."""

    kind: ClassVar[str] = ""
    output: str
    """Directory of this attempt; the worker creates it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Base of all results."""

    seconds: float
    """Wall time of the work."""


# ---- data preparation ------------------------------------------------------------------------------------


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
class OpenModel(Task):
    """Look at the model that a job begins with; of a results tree of LinkedIn GDMix, make a model directory."""

    kind = "open_model"
    initial: str
    """Directory of a model version, or one that holds `<coordinate>/models/*.avro`."""
    config_json: str
    """The job's config, in its canonical form."""
    inspect: InspectData
    """How the job's data are inspected: their columns tell what the features of a results tree are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOpened(TaskResult):
    """What a job needs to know of the model that it begins with."""

    task: str
    coordinates: tuple[OpenedCoordinate, ...]
    directory: str = ""
    """The model directory to use from now on; empty for the one that was asked for."""
    notices: tuple[str, ...] = ()
    """What a person should know of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCoordinate:
    """A coordinate of the model that a job begins with."""

    name: str
    effect: str
    """`external`, another fixed effect's name, or `random_effect`."""
    features: tuple[str, ...]
    intercept: bool
    entity_column: str
    parts: int
    """Coefficient files of a random effect, cut by the hash of the entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeIndex(Task):
    """Take the feature index of a model as it is."""

    kind = "take_index"
    initial: str


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


# ---- fixed effect ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInput:
    """One home shard as training and scoring read it."""

    shard: int
    directory: str
    scores: tuple[str, ...]
    """Directories of this shard's score blocks whose sum is the offset, in coordinate order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regularization:
    """Ridge strengths of a coordinate; which coefficients a group covers is read off the feature index."""

    groups: dict[str, float]
    """`default`, `intercept`, `<bag>`, `<bag>.<column>`; the most specific one wins."""
    regularize_intercept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFixedEffect(Task):
    """Work out the ridge vector (and penalty scaling) of a fixed effect and push it as array `l2`."""

    kind = "prepare_fixed_effect"
    design: DesignSpec
    index: str
    regularization: Regularization


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectPrepared(TaskResult):
    """The ridge vector has been pushed."""

    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateFixedEffect(Task):
    """Sum loss, gradient and, when asked, Hessian at the round's theta over a worker's shards.

    The worker pulls array `theta` of its lease and pushes array `sums`: float64 [nodes, length], one row for
    each maximal whole subtree of its shards, in the order of `gdmix_core.solvers.summation_tree.owned_nodes`.
    It keeps the shards in memory for the next round under `cache_key`.
    """

    kind = "evaluate_fixed_effect"
    design: DesignSpec
    dimension: int
    loss: int
    hessian: bool
    cache_key: str
    shards: tuple[ShardInput, ...]
    shard_count: int
    """Home shards of the job: the width of the summation tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectEvaluated(TaskResult):
    """The sums have been pushed."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishFixedEffect(Task):
    """Pull array `theta` (and `variances`), write THETA_FILE and COEFFICIENTS_FILE."""

    kind = "finish_fixed_effect"
    design: DesignSpec
    index: str
    has_variances: bool
    sparsity_threshold: float = 0.0
    """Coefficients of features that are not larger become 0."""
    initial: str | None = None
    """Directory of the model to begin with: what training left at exactly 0, being in no row, is taken from it."""
    regularization: Regularization | None = None
    """With it, the result says the penalty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectFinished(TaskResult):
    """The fixed effect's files lie in the attempt's directory."""

    nonzero: int
    penalty: float = 0.0
    """½ Σ l2 θ²."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFixedEffect(Task):
    """Write one home shard's score block of a fixed effect."""

    kind = "score_fixed_effect"
    role: Role
    design: DesignSpec
    shard: int
    directory: str
    model: str
    """Directory of the finished fixed effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardScored(TaskResult):
    """A score block lies in the attempt's directory."""

    rows: int


# ---- random effects --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOffsets(Task):
    """Write a training shard's offsets (given ones plus `scores`) in the order of a grouping's partitions."""

    kind = "write_offsets"
    grouping: GroupingSpec
    input: ShardInput


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetsWritten(TaskResult):
    """A shard's offsets lie in the attempt's directory, by partition."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRandomEffect(Task):
    """Solve every entity of one partition; write coefficients, training scores and validation scores."""

    kind = "train_random_effect"
    grouping: GroupingSpec
    partition: int
    loss: int
    dimension: int
    index: str
    regularization: Regularization
    variance: Literal["none", "simple", "full"]
    max_iterations: int
    partition_directory: str
    validation_directory: str | None
    """Directory of the same partition of the validation rows."""
    offsets: tuple[str, ...]
    """Directories of the offsets of all home shards, in shard order."""
    shards: int
    validation_shards: int
    sparsity_threshold: float = 0.0
    """Coefficients of features that are not larger are left out."""
    initial: str | None = None
    """Directory of the model to begin with, cut into the same partitions: what this data does not have is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconverged:
    """One entity that did not meet the certificate."""

    entity: str
    status: str
    gradient_ratio: float
    """Largest |gradient| over what the certificate allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomEffectTrained(TaskResult):
    """Coefficients and scores of a partition lie in the attempt's directory."""

    entities: int
    rows: int
    coefficients: int
    statuses: dict[str, int]
    """Entities by status name, only those that occur."""
    unconverged: tuple[Unconverged, ...]
    """At most 20, in id order."""
    validation_rows_unseen: int
    """Validation rows whose entity has no model: they score 0 here."""
    untrained: int = 0
    """Entities without a model, having too few rows to be trained on."""
    passive_rows: int = 0
    """Rows that were scored, not trained on."""
    carried_over: int = 0
    """Entities of the initial model that this data did not train."""
    penalty: float = 0.0
    """½ Σ l2 θ² over the partition's entities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleScores(Task):
    """Gather one home shard's score block of a random effect from the partitions."""

    kind = "assemble_scores"
    role: Role
    shard: int
    directory: str
    partitions: tuple[str, ...]
    """Directories of all partitions' training results, in partition order."""


# ---- all coordinates together ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreChange:
    """A coordinate's score blocks of one home shard, by directory: what stood for it in a pass, what came out."""

    before: str | None
    """None: nothing stood for it, that is 0."""
    scores: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePass(Task):
    """Sum one training shard's loss, and the products of what the last pass and those before it changed."""

    kind = "measure_pass"
    loss: int
    input: ShardInput
    """With the score blocks of all coordinates."""
    changes: tuple[tuple[ScoreChange, ...], ...]
    """By pass, oldest first, and by coordinate; the last one is the pass that has just ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMeasured(TaskResult):
    """A shard's share of the joint objective and of the products."""

    loss: float
    """Σ w ℓ(y, z), without penalties."""
    products: tuple[float, ...]
    """⟨change of a pass, change of the last pass⟩, over rows and coordinates; oldest pass first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixScores(Task):
    """Write one shard's weighted sum of score blocks of a coordinate."""

    kind = "mix_scores"
    shard: int
    scores: tuple[str, ...]
    """Directories of the score blocks."""
    weights: tuple[float, ...]


# ---- scoring with a model --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFixedEffect(Task):
    """Write a model's fixed effect as THETA_FILE, as scoring reads it."""

    kind = "load_fixed_effect"
    initial: str
    coordinate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEffectLoaded(TaskResult):
    """A fixed effect lies in the attempt's directory."""

    coefficients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePartition(Task):
    """Score one partition's rows with the same partition of a model."""

    kind = "score_partition"
    role: Role
    initial: str
    coordinate: str
    partition: int
    partition_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScored(TaskResult):
    """Scores of a partition lie in the attempt's directory, under the role's name."""

    rows: int
    rows_unseen: int
    """Rows whose entity the model does not have: they score 0 here."""


# ---- validation ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureShard(Task):
    """One validation shard's share of the metrics: additive sums, a sorted run, predictors by grouping."""

    kind = "measure_shard"
    loss: int
    metrics: tuple[str, ...]
    input: ShardInput
    groupings: tuple[GroupingSpec, ...]
    """Groupings of the per-entity metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeasured(TaskResult):
    """A validation shard's share of the metrics."""

    rows: int
    sums: dict[str, tuple[float, ...]]
    """Additive state by metric name, added in shard order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRuns(Task):
    """Merge the sorted runs of all validation shards into the exact rank metrics."""

    kind = "merge_runs"
    metrics: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsMerged(TaskResult):
    """The rank metrics over all validation rows."""

    values: dict[str, MetricValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureEntities(Task):
    """Per-entity metrics over one partition of the validation rows."""

    kind = "measure_entities"
    loss: int
    metrics: tuple[str, ...]
    """Names with their column, say `auc:user_id`."""
    grouping: GroupingSpec
    partition: int
    partition_directory: str
    predictors: tuple[str, ...]
    """Directories of the measured validation shards, in shard order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitiesMeasured(TaskResult):
    """One partition's share of the per-entity metrics, by name."""

    sums: dict[str, float]
    """Sum of the metric over the entities where it is defined."""
    entities: dict[str, int]
    entities_undefined: dict[str, int]


# ---- model and store -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStore(Task):
    """Look whether the store can be published to, before hours of training."""

    kind = "check_store"
    store: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChecked(TaskResult):
    """The store answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginPublish(Task):
    """Take a version number from the store and read what is active."""

    kind = "begin_publish"
    store: str
    model: str
    epoch: int
    owner: str
    """Identity of the journal that the epoch belongs to."""
    model_root: str
    """`<output>/models`: versions that lie there are not given out again by a store that was emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishBegun(TaskResult):
    """The version to be written."""

    ticket: PublishTicket


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """What a trained coordinate leaves to be put together."""

    coordinate: str
    directories: tuple[str, ...]
    """Fixed effect: the finished one. Random effect: all partitions' results, in partition order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishModel(Task):
    """Put the model directory together under a temporary name and rename it into place."""

    kind = "finish_model"
    job_id: str
    config_json: str
    model_root: str
    """`<output>/models`."""
    version: int
    index: str
    parts: tuple[ModelPart, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    """What only the coordinator knows: metrics, counts, dimensions, by the manifest's keys."""
    run: dict[str, Any] = field(default_factory=dict)
    """Times, hosts and job ids, for run.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFinished(TaskResult):
    """Where the model directory is, and the digest of what decides its scores."""

    directory: str
    content_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPart(Task):
    """Write one coefficient file of a random effect to the store (or to a spill for an embedded one)."""

    kind = "publish_part"
    store: str
    ticket: PublishTicket
    coordinate: str
    part: int
    model_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPublished(TaskResult):
    """One coefficient file is in the store, or in a spill."""

    coordinate: str
    entities: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishPublish(Task):
    """Write blobs and manifest, verify counts and checksums, seal, activate by compare-and-set, clean up."""

    kind = "finish_publish"
    store: str
    ticket: PublishTicket
    activate: bool
    keep: int
    model_directory: str
    parts: tuple[PartPublished, ...]
    spills: tuple[str, ...]
    """Directories of the accepted PublishPart attempts, for an embedded store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishFinished(TaskResult):
    """The version is sealed."""

    activated: bool
    winner: int | None
    """The version that is active instead, when `activated` is false because of another publisher."""
    entities: int
    removed_versions: tuple[int, ...]


# ---- results in the layout of LinkedIn GDMix -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearResults(Task):
    """Remove the results of an earlier job of the same output, and make room for those of this one."""

    kind = "clear_results"
    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsCleared(TaskResult):
    """The directories are there, and empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteScores(Task):
    """Write one home shard's scores of a coordinate as Avro."""

    kind = "write_scores"
    path: str
    input: ShardInput
    """The shard, with the other coordinates' scores that were its offset."""
    own_scores: str
    """Directory of the coordinate's own score block."""
    uid: str
    label: str
    weight: str
    integer_label: bool
    """Whether labels are written as integers, as they are 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresWritten(TaskResult):
    """A score file is there."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteModelFile(Task):
    """Write one coefficient file of a coordinate as Avro."""

    kind = "write_model_file"
    path: str
    coordinate: str
    effect: Literal["fixed_effect", "random_effect"]
    directory: str
    """Where COEFFICIENTS_FILE lies."""
    index: str
    bags: tuple[str, ...]
    intercept: bool
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFileWritten(TaskResult):
    """A model file is there."""

    models: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSummary(Task):
    """Write a coordinate's metrics as JSON."""

    kind = "write_summary"
    path: str
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryWritten(TaskResult):
    """A summary is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveWork(Task):
    """Delete the job's working files."""

    kind = "remove_work"
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRemoved(TaskResult):
    """The working files are gone."""


RESULT_OF: dict[type[Task], type[TaskResult]] = {
    InspectData: DataInspected,
    IndexFeatures: FeaturesIndexed,
    MergeIndex: IndexMerged,
    OpenModel: ModelOpened,
    TakeIndex: IndexMerged,
    EncodeSplit: SplitEncoded,
    BuildShard: ShardBuilt,
    BuildPartition: PartitionBuilt,
    PrepareFixedEffect: FixedEffectPrepared,
    EvaluateFixedEffect: FixedEffectEvaluated,
    FinishFixedEffect: FixedEffectFinished,
    ScoreFixedEffect: ShardScored,
    WriteOffsets: OffsetsWritten,
    TrainRandomEffect: RandomEffectTrained,
    AssembleScores: ShardScored,
    MeasurePass: PassMeasured,
    MixScores: ShardScored,
    LoadFixedEffect: FixedEffectLoaded,
    ScorePartition: PartitionScored,
    MeasureShard: ShardMeasured,
    MergeRuns: RunsMerged,
    MeasureEntities: EntitiesMeasured,
    CheckStore: StoreChecked,
    BeginPublish: PublishBegun,
    FinishModel: ModelFinished,
    PublishPart: PartPublished,
    FinishPublish: PublishFinished,
    ClearResults: ResultsCleared,
    WriteScores: ScoresWritten,
    WriteModelFile: ModelFileWritten,
    WriteSummary: SummaryWritten,
    RemoveWork: WorkRemoved,
}
"""Every task and what it answers."""

TASK_OF_KIND: dict[str, type[Task]] = {task.kind: task for task in RESULT_OF}


_adapters: dict[type[Task] | type[TaskResult], TypeAdapter[Any]] = {}


def _adapter(kind: type[Task] | type[TaskResult]) -> TypeAdapter[Any]:
    """Return the codec of a class, made at its first use."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_json(value: Task | TaskResult) -> str:
    """Return the JSON form of a task or result; floats survive the round trip exactly."""
    from pydantic_core import to_json as dump

    # Infinities are constants, which `validate_json` reads back: a gradient ratio may be infinite.
    return dump(value, inf_nan_mode="constants").decode()


def task_from_json(kind: str, text: str) -> Task:
    """Read a task back.

    Raises:
        KeyError: No such kind.
        pydantic.ValidationError: The text is not such a task.
    """
    task: Task = _adapter(TASK_OF_KIND[kind]).validate_json(text)
    return task


def result_from_json(kind: str, text: str) -> TaskResult:
    """Read the result of a task of `kind` back; errors as `task_from_json`."""
    result: TaskResult = _adapter(RESULT_OF[TASK_OF_KIND[kind]]).validate_json(text)
    return result
