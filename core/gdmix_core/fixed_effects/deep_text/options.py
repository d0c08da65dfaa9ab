"""What a config may say of a deep text effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gdmix_core.fixed_effects.plugin import ColumnKind, InputColumn, PluginOptions

Text = Annotated[str, Field(min_length=1)]
Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrNone = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Interaction = Literal["concatenation", "cosine", "hadamard", "difference"]
EarlyStoppingMetric = Literal["auc", "logloss", "rmse", "poisson_loss"]


def _changed(options: PluginOptions) -> set[str]:
    """Return the fields that differ from their defaults; on the wire every field is set."""
    fields = type(options).model_fields
    return {name for name in fields if getattr(options, name) != fields[name].default}


class Column(PluginOptions):
    """A data column; a bare name in the config means `{column: name}`."""

    column: Text
    """Its name."""
    source: Text | None = None
    """Which of `data.sources` holds it; the first that has it when absent."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class NumberColumn(Column):
    """A number, or a vector of them."""

    vector: Switch = False
    """Whether its values are lists of one length."""
    dimension: Count | None = None
    """Length of the lists; taken from the data when absent."""

    @model_validator(mode="after")
    def _dimension_is_of_a_vector(self) -> NumberColumn:
        if self.dimension is not None and not self.vector:
            raise ValueError("dimension goes with vector: true")
        return self


class CategoryColumn(Column):
    """A category, or a list of them: an entity, a genre, a country."""

    list: Switch = False
    """Whether its values are lists of strings."""
    embedding: CountOrNone = 8
    """Length of each value's vector, an input of the network; 0 for none."""
    min_df: Count = 1
    """Values in fewer training rows than this are one: `other`, which is also what unknown ones are."""


class SparseColumn(Column):
    """A sparse vector."""

    dimension: Count
    """Its length; indices are 0 ≤ index < dimension."""
    embedding: CountOrNone = 0
    """Length of each position's vector, which the network takes, weighted by the value and summed; 0 for none."""


class Cnn(PluginOptions):
    """Convolutions over windows of tokens; each filter's maximum over the text (Kim 2014)."""

    kind: Literal["cnn"] = "cnn"
    """Kind of encoder."""
    windows: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 3)
    """Lengths of windows, in tokens."""
    filters: Count = 64
    """Filters of each length."""


class Recurrent(PluginOptions):
    """A recurrent network; its last states are the text's vector."""

    kind: Literal["lstm", "gru"]
    """Kind of encoder."""
    units: Count = 64
    """Length of the state."""
    layers: Count = 1
    """Layers, one upon the other."""
    bidirectional: Switch = False
    """Whether the text is read backwards too."""
    dropout: Dropout = 0.0
    """Share of the inputs of each layer but the first that is left out in training."""


class Transformer(PluginOptions):
    """Self-attention (Vaswani et al. 2017), trained from scratch; the mean over the tokens is the text's vector."""

    kind: Literal["transformer"]
    """Kind of encoder."""
    layers: Count = 2
    """Blocks of attention and feed-forward network."""
    heads: Count = 4
    """Heads of attention; they divide `hidden`."""
    hidden: Count = 64
    """Length of a token's vector."""
    feed_forward: Count | None = None
    """Units of the feed-forward network; 4 · hidden when absent."""
    dropout: Dropout = 0.1
    """Share of vectors' entries that is left out in training."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Transformer:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        return self


class Bert(PluginOptions):
    """A pretrained BERT: a directory with `config.json`, `vocab.txt` and weights, as Hugging Face's models have.

    Its vocabulary and word pieces are used; `vocabulary` and `word_embedding` mean nothing then.
    """

    kind: Literal["bert"]
    """Kind of encoder."""
    directory: Text
    """Directory; every worker that trains must reach it under this path."""
    layers: Count | None = None
    """Only so many blocks, from the first; all when absent."""
    pooling: Literal["cls", "mean"] = "mean"
    """Text's vector: that of `[CLS]`, or the mean over the tokens."""
    trainable: Switch = True
    """Whether its weights are trained further."""
    learning_rate_factor: Positive = 0.05
    """Its learning rate over that of the other weights."""
    dropout: Dropout = 0.1
    """Share of vectors' entries that is left out in training."""


Encoder = Annotated[Cnn | Recurrent | Transformer | Bert, Field(discriminator="kind")]


class VocabularyOptions(PluginOptions):
    """Which tokens are known; the others are one, `unknown`."""

    file: Text | None = None
    """A token a line, UTF-8; built from the training rows when absent."""
    min_df: Count = 2
    """Built: tokens in fewer training rows than this are unknown."""
    size: Count = 50_000
    """Built: at most so many, the most frequent ones."""

    @model_validator(mode="after")
    def _built_or_given(self) -> VocabularyOptions:
        stray = sorted(_changed(self) - {"file"}) if self.file else []
        if stray:
            raise ValueError(f"{', '.join(stray)} means nothing with file: the file says what is known")
        return self


class WordEmbedding(PluginOptions):
    """Vectors of the tokens."""

    size: Count = 64
    """Their length; that of the file when one is given."""
    file: Text | None = None
    """Vectors to begin with, in the text format of word2vec or GloVe."""
    trainable: Switch = True
    """Whether they are trained."""
    dropout: Dropout = 0.0
    """Share of their entries that is left out in training."""

    @model_validator(mode="after")
    def _trained_or_loaded(self) -> WordEmbedding:
        if self.file is None and not self.trainable:
            raise ValueError("trainable: false needs a file: vectors drawn at random would stay as they are")
        if self.file is not None and "size" in _changed(self):
            raise ValueError("size means nothing with file: it is the length of the file's vectors")
        return self


class OptimizerOptions(PluginOptions):
    """AdamW (Loshchilov and Hutter 2019), or BERT's variant of it, which does not correct the moments' bias."""

    kind: Literal["adamw", "bert_adam"] = "adamw"
    """Kind of optimiser."""
    learning_rate: Positive = 0.002
    """Largest learning rate."""
    weight_decay: NotNegative = 0.01
    """Decoupled decay, times the learning rate, of all weights but biases and normalisations' scales."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises to its largest."""
    decay: Literal["linear", "none"] = "linear"
    """Whether it then falls to 0 with the last step."""
    clip_norm: Positive | None = 1.0
    """Bound on the gradient's norm; none when null."""


class EarlyStopping(PluginOptions):
    """The weights kept are those of the best evaluation, and training ends when none has been better for long."""

    metric: EarlyStoppingMetric | None = None
    """What is best; the loss of the task when absent, auc for logistic regression."""
    on: Literal["holdout", "validation"] = "holdout"
    """Rows to evaluate on: a part of the training rows, which are then not trained on, or the validation rows."""
    share: Share = 0.1
    """Part of the training rows that is held out."""
    rows: Count = 200_000
    """At most so many rows are evaluated on."""
    every_steps: Count | None = None
    """Steps between evaluations; an epoch when absent."""
    patience: Count = 3
    """Training ends after so many evaluations without a better one."""
    refit: Switch = False
    """Whether to train once more on all training rows, for as many epochs as were best."""

    @model_validator(mode="after")
    def _refit_what_was_held_out(self) -> EarlyStopping:
        if self.refit and self.on == "validation":
            raise ValueError("refit: true goes with on: holdout; validation rows were never left out")
        return self


class DeepTextOptions(PluginOptions):
    """A deep and wide network: its inputs, its layers, its training."""

    text: tuple[Column, ...] = ()
    """Text columns of what is scored: its title, its description."""
    query: Column | None = None
    """Text column of what was asked for."""
    user_text: tuple[Column, ...] = ()
    """Text columns of who asks."""
    numbers: tuple[NumberColumn, ...] = ()
    """Numbers; null is their mean."""
    categories: tuple[CategoryColumn, ...] = ()
    """Categories and entities."""
    sparse: tuple[SparseColumn, ...] = ()
    """Sparse vectors."""
    normalize: Switch = True
    """Whether numbers are brought to mean 0 and standard deviation 1 of the training rows."""
    wide: Switch = True
    """Whether numbers, categories and sparse vectors have linear terms too; sparse ones always have."""

    encoder: Encoder = Cnn()
    """How a text becomes a vector."""
    share_encoder: Switch | None = None
    """Whether all text columns share one; when absent, a transformer is shared and the others are not."""
    vocabulary: VocabularyOptions = VocabularyOptions()
    """Which tokens are known."""
    word_embedding: WordEmbedding = WordEmbedding()
    """Vectors of tokens, shared by all text columns."""
    max_len: Count = 32
    """Tokens of a text beyond this are left out."""
    min_len: Count = 1
    """Shorter texts are padded to this; padding changes no score."""
    interactions: Annotated[tuple[Interaction, ...], Field(min_length=1)] = ("concatenation",)
    """What the network is given of query and user texts together with each text of what is scored."""
    hidden: tuple[Count, ...] = (64,)
    """Units of the network's layers."""
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    """Activation of the layers."""
    dropout: Dropout = 0.1
    """Share of the layers' inputs that is left out in training."""

    optimizer: OptimizerOptions = OptimizerOptions()
    """How weights are moved."""
    batch_size: Count = 256
    """Rows of a step, over all workers."""
    epochs: Positive = 10.0
    """How often the training rows are gone over, at most."""
    steps: Count | None = None
    """Steps at most, instead of epochs."""
    l2: NotNegative = 0.0
    """Ridge: this times half the weights' squared sum is added to the mean loss; biases left out."""
    l1: NotNegative = 0.0
    """Lasso: this times the weights' absolute sum is added to the mean loss; biases left out."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    """When to stop; null trains for all epochs and keeps the last weights."""
    checkpoint_steps: Count = 500
    """Steps between checkpoints."""
    workers: Count = 1
    """Workers that train together, in one synchronous gang."""

    @model_validator(mode="after")
    def _has_inputs(self) -> DeepTextOptions:
        if not any(self.inputs()):
            raise ValueError(
                "there is nothing to learn from: give text, numbers, categories or sparse columns"
            )
        return self

    @model_validator(mode="after")
    def _interactions_have_two_sides(self) -> DeepTextOptions:
        pairs = [kind for kind in self.interactions if kind != "concatenation"]
        if pairs and not (self.text and self.asking()):
            raise ValueError(f"interactions {', '.join(pairs)} need text and one of query and user_text")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> DeepTextOptions:
        if self.min_len > self.max_len:
            raise ValueError(f"min_len {self.min_len} is above max_len {self.max_len}")
        if isinstance(self.encoder, Bert):
            stray = sorted({"vocabulary", "word_embedding"} & _changed(self))
            if stray:
                raise ValueError(f"{', '.join(stray)} means nothing with encoder bert, which brings its own")
        return self

    def asking(self) -> tuple[Column, ...]:
        """Return the text columns that meet each of `text`: query and user texts."""
        return (*((self.query,) if self.query else ()), *self.user_text)

    def texts(self) -> tuple[Column, ...]:
        """Return all text columns."""
        return (*self.text, *self.asking())

    def shares_encoder(self) -> bool:
        """Return whether all text columns share one encoder."""
        if self.share_encoder is None:
            return isinstance(self.encoder, (Transformer, Bert))
        return self.share_encoder

    def inputs(self) -> Iterator[InputColumn]:
        """Yield every column that is read."""
        for text in self.texts():
            yield InputColumn(text.column, "string", source=text.source)
        for number in self.numbers:
            kind: ColumnKind = "vector" if number.vector else "number"
            yield InputColumn(number.column, kind, number.dimension, number.source)
        for category in self.categories:
            kind = "strings" if category.list else "string"
            yield InputColumn(category.column, kind, source=category.source)
        for vector in self.sparse:
            yield InputColumn(vector.column, "sparse", vector.dimension, vector.source)
