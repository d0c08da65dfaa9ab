"""The protocol of a fixed effect that is plugged in.

A plug-in is a class registered as an entry point of the group `gdmix.fixed_effects`; its name there is what a job's
config says (`fixed_effect: <name>`). The same class is loaded by the client (options are checked with the rest of
the config), by workers (fitting, scoring all rows) and by the scorer (scoring a request), so importing it must be
cheap: heavy libraries are imported inside the methods that use them.

    class MyEffect(FixedEffectPlugin[MyOptions]):
        options = MyOptions
        def columns(self, options): ...
        def fit(self, options, data, context): ...
        def load(self, directory): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pyarrow as pa

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

ColumnKind = Literal["number", "string", "strings", "vector", "sparse"]
"""What a plug-in wants of a column, and its Arrow type then:

- `number`: float64, null where absent;
- `string`: utf8, null where absent; integers and booleans come as text, as entity ids do;
- `strings`: list<utf8>, null where absent;
- `vector`: list<float32> of one length in all rows;
- `sparse`: struct<indices: list<int64>, values: list<float32>>, null where absent.
"""
Training = Literal["one_worker", "gang", "gradients"]
"""How a plug-in is trained: by one worker, by several at once that talk to each other, or by the coordinator's
optimiser over gradients that all workers sum."""
Task = Literal["logistic_regression", "linear_regression", "poisson_regression"]


class PluginOptions(BaseModel):
    """Base of a plug-in's options: what a coordinate's config may say besides `fixed_effect`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Options = TypeVar("Options", bound=PluginOptions)


@dataclass(frozen=True, slots=True)
class InputColumn:
    """A data column that a plug-in reads.

    Attributes:
        name: of the column.
        kind: what its values become.
        dimension: `sparse`: its length; `vector`: its length, None to take it from the data.
        source: which of `data.sources` holds it; the first that has it when None.
    """

    name: str
    kind: ColumnKind
    dimension: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows, aligned.

    Attributes:
        columns: the plug-in's columns, typed as `ColumnKind` says.
        label: float64[rows].
        weight: float64[rows].
        offset: float64[rows]: what the other coordinates and the data's own offset add to the score.
        uid: int64[rows], ascending; None where it is not known.
    """

    columns: pa.RecordBatch
    label: Float64Array
    weight: Float64Array
    offset: Float64Array
    uid: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.label)


class RowShard(Protocol):
    """One home shard of the prepared data; a fixed share of the rows in an order that never changes."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    def read(self) -> Rows:
        """Return its rows; columns lie in memory-mapped files, so that only what is used is read."""
        ...


@dataclass(frozen=True, slots=True)
class FitData:
    """The rows of a job.

    Attributes:
        train: shards of the training rows.
        validation: shards of the validation rows, which only early stopping that was asked for may look at.
    """

    train: Sequence[RowShard]
    validation: Sequence[RowShard]

    @property
    def train_rows(self) -> int:
        """Number of training rows."""
        return sum(shard.rows for shard in self.train)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """How far a fit is; what is not known is None.

    Attributes:
        step: steps done.
        steps: steps at most.
        rows: training rows seen, repetitions included.
        loss: mean training loss since the last report.
        metrics: what was measured, by name.
    """

    step: int
    steps: int
    rows: int
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gang:
    """The members of a gang, of which this process is one.

    Attributes:
        rank: of this process, from 0; the chief is 0, and only its model is kept.
        addresses: `host:port` of every member; this one's port is held for it until it listens there.
    """

    rank: int
    addresses: Sequence[str]

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.addresses)


class FitContext(Protocol):
    """What a fit may use besides its data. It runs in a process of its own, as the only work there."""

    task: Task
    seed: int
    threads: int
    """Threads that the fit may keep busy."""
    checkpoints: Path
    """Directory that outlives the process: a fit that begins anew finds here what it left."""
    logs: Path
    """Directory for event files (TensorBoard), kept with the job."""
    gang: Gang | None
    """The gang, when `training` is `gang`."""

    def report(self, progress: FitProgress) -> None:
        """Tell the people who watch how far the fit is; cheap enough for every few steps."""
        ...

    def notice(self, text: str, *, warning: bool = False) -> None:
        """Tell them something worth keeping in the job's record."""
        ...


class FixedEffectModel(ABC):
    """A fitted fixed effect."""

    @abstractmethod
    def score(self, columns: pa.RecordBatch) -> Float64Array:
        """Return the linear predictor (logits for logistic regression), offset left out, float64[rows].

        Called with any number of rows, also none; never from two threads at once.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the model into an existing, empty directory: ordinary files, no pickle."""

    def warm_up(self) -> None:  # noqa: B027 - nothing to do is a good answer
        """Do now what would make the first `score` slow; a scorer calls it before it takes requests."""

    def describe(self) -> Mapping[str, float | str]:
        """Return facts for people: say steps, trees, parameters."""
        return {}


class FixedEffectPlugin(ABC, Generic[Options]):
    """A kind of fixed effect; instances have no state."""

    options: ClassVar[type[PluginOptions]]
    """Model of the options."""
    training: ClassVar[Training] = "one_worker"
    """How it is trained."""
    extra: ClassVar[str | None] = None
    """pip requirement to name when an import fails, say `gdmix[lightgbm]`."""

    @abstractmethod
    def columns(self, options: Options) -> Sequence[InputColumn]:
        """Return the columns that training and scoring read."""

    def check(self, options: Options, task: Task) -> None:
        """Refuse what the options alone cannot: say a task that the plug-in has no loss for.

        Raises:
            ValueError: with what was found and what is allowed.
        """

    def members(self, options: Options) -> int:
        """Return how many workers a gang needs; 1 without one."""
        del options
        return 1

    @abstractmethod
    def fit(self, options: Options, data: FitData, context: FitContext) -> FixedEffectModel:
        """Fit the model to the training rows, their offsets added to its scores.

        Raises:
            gdmix_core.errors.DataError: the rows do not fit; the message says column and value.
        """

    @abstractmethod
    def load(self, directory: Path) -> FixedEffectModel:
        """Return the model that `save` left in a directory, ready to score."""


class GradientPlugin(FixedEffectPlugin[Options]):
    """A fixed effect whose parameters the coordinator's optimiser finds (L-BFGS), `training = "gradients"`."""

    training: ClassVar[Training] = "gradients"

    @abstractmethod
    def prepare(self, options: Options, data: FitData, context: FitContext, directory: Path) -> Float64Array:
        """Write what `derivatives` needs into `directory`; return the parameters to begin with, float64[d]."""

    @abstractmethod
    def derivatives(
        self, directory: Path, options: Options, theta: Float64Array, rows: Rows, task: Task
    ) -> tuple[float, Float64Array]:
        """Return Σ weight · loss and its gradient float64[d] over some rows, penalty left out."""

    def ridge(self, directory: Path, options: Options) -> Float64Array | None:
        """Return the ridge strength of every parameter, float64[d]; None for no penalty."""
        del directory, options
        return None

    @abstractmethod
    def finish(self, directory: Path, options: Options, theta: Float64Array) -> FixedEffectModel:
        """Return the model with the parameters found."""

    def fit(self, options: Options, data: FitData, context: FitContext) -> FixedEffectModel:
        """Not called: the coordinator fits."""
        raise NotImplementedError


def batches(columns: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces of at most so many rows."""
    for start in range(0, columns.num_rows, rows):
        yield columns.slice(start, rows)
