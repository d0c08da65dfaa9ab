"""What a config of LinkedIn's DeText may say, key by key (version 3, with the names that version 2 had besides)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNUSED: Final = "unused"
_ELSEWHERE: Final = "elsewhere"

Unused = Annotated[Any, _UNUSED]
"""A key that DeText knows and that means nothing here; its description says why."""
Elsewhere = Annotated[Any, _ELSEWHERE]
"""A key of the job's data: the translation of the job takes care of it."""


def _as_list(value: Any) -> Any:
    """DeText's lists are lists, single values, or words between commas or spaces."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return value if isinstance(value, (list, tuple)) or value is None else [value]


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_list)]


class DetextParams(BaseModel):
    """The keys and their defaults, DeText's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    ftr_ext: Literal["cnn", "lstm", "bert"] = "cnn"
    """Encoder of texts."""
    num_units: int = 128
    """Length of word vectors and of the LSTM's state."""
    num_units_for_id_ftr: int = 128
    """Length of the vectors of ids."""
    num_filters: int = 100
    """Filters of each window of the CNN."""
    filter_window_sizes: Sizes = (3,)
    """Windows of the CNN."""
    num_layers: int = 1
    """Layers of the LSTM."""
    bidirectional: bool = False
    """Whether the LSTM reads backwards too."""
    rnn_dropout: float = 0.0
    """Dropout of the LSTM."""
    bert_hub_url: str | None = None
    """Where BERT comes from; here a directory."""
    lr_bert: float = 0.0
    """Learning rate of BERT; 0 for that of the others."""
    num_hidden: Sizes = ()
    """Units of the layers."""
    emb_sim_func: Annotated[
        tuple[Literal["inner", "hadamard", "concat", "diff"], ...], BeforeValidator(_as_list)
    ] = ("inner",)
    """What query and user texts have to do with the document's."""
    sparse_embedding_size: int = 1
    """Length of the vectors of sparse features."""
    use_deep: bool = True
    """Whether texts are used at all (version 2)."""
    dropout: float | None = None
    """Dropout of the layers."""

    query_column_name: str = ""
    """Text column of the query."""
    doc_text_column_names: Names = ()
    """Text columns of the document."""
    user_text_column_names: Names = ()
    """Text columns of the user."""
    doc_id_column_names: Names = ()
    """Columns of the document's ids."""
    user_id_column_names: Names = ()
    """Columns of the user's ids."""
    dense_ftrs_column_names: Names = ()
    """Columns of numbers."""
    nums_dense_ftrs: Sizes = ()
    """Their lengths."""
    sparse_ftrs_column_names: Names = ()
    """Columns of sparse vectors."""
    nums_sparse_ftrs: Sizes = ()
    """Their lengths."""
    shallow_tower_sparse_ftrs_column_names: Names = ()
    """Columns of sparse vectors with linear terms only."""
    nums_shallow_tower_sparse_ftrs: Sizes = ()
    """Their lengths."""
    max_len: int = 32
    """Longest text, in tokens."""
    min_len: int = 3
    """Shortest text, padded."""
    vocab_file: str = ""
    """Tokens, one a line."""
    we_file: str = ""
    """Word vectors."""
    we_trainable: bool = True
    """Whether they are trained."""

    optimizer: Literal["sgd", "adam", "adamw", "bert_adam", "lamb"] = "sgd"
    """Optimiser."""
    use_bias_correction_for_adamw: bool = False
    """Whether AdamW corrects its moments' bias."""
    learning_rate: float = 1.0
    """Learning rate."""
    use_lr_schedule: bool = True
    """Whether it rises and falls."""
    num_warmup_steps: int = 0
    """Steps in which it rises."""
    max_gradient_norm: float = 1.0
    """Bound on the gradient's norm."""
    l1: float | None = 0.0
    """Lasso."""
    l2: float | None = 0.0
    """Ridge."""
    num_train_steps: int = 1
    """Steps."""
    num_epochs: float | None = None
    """Epochs, instead of steps."""
    train_batch_size: int = 32
    """Rows of a step."""
    steps_per_eval: int = 1000
    """Steps between evaluations."""
    num_eval_rounds: int = 0
    """Evaluations, instead of steps between them."""
    pmetric: str | None = None
    """What the best evaluation is best in."""

    ltr_loss_fn: str = "pairwise"
    """Loss; here `pointwise`."""
    num_classes: int = 1
    """Classes; here 1."""
    task_type: str = "ranking"
    """Kind of task."""

    gdmix_config: Elsewhere = None
    train_file: Elsewhere = None
    dev_file: Elsewhere = None
    test_file: Elsewhere = None
    label_column_name: Elsewhere = None
    weight_column_name: Elsewhere = None
    uid_column_name: Elsewhere = None

    all_metrics: Unused = Field(None, description="the job's metrics are measured")
    all_reduce_alg: Unused = Field(None, description="TensorFlow chooses")
    add_doc_projection: Unused = Field(None, description="every text column has its own vector")
    add_user_projection: Unused = Field(None, description="every text column has its own vector")
    distribution_strategy: Unused = Field(None, description="`workers` says how many train together")
    embedding_hub_url: Unused = Field(None, description="nothing is downloaded")
    embedding_hub_url_for_id_ftr: Unused = Field(None, description="nothing is downloaded")
    explicit_allreduce: Unused = Field(None, description="gradients are always added up, then clipped")
    forget_bias: Unused = Field(None, description="it is 1")
    keep_checkpoint_max: Unused = Field(None, description="the last two are kept while training goes on")
    lambda_metric: Unused = Field(None, description="of losses over lists")
    num_eval_steps: Unused = Field(None, description="all held-out rows are evaluated")
    num_gpu: Unused = Field(None, description="an accelerator is used where there is one")
    out_dir: Unused = Field(None, description="the job's output")
    random_seed: Unused = Field(None, description="the job's seed")
    rescale_dense_ftrs: Unused = Field(
        None, description="numbers are normalised by the mean and deviation of the training rows"
    )
    resume_training: Unused = Field(None, description="a job that was cut off always goes on")
    run_eagerly: Unused = Field(None, description="of debugging")
    score_rescale: Unused = Field(None, description="random effects need the score as it is")
    sparse_embedding_cross_ftr_combiner: Unused = Field(
        None, description="vectors of different columns stand side by side"
    )
    sparse_embedding_same_ftr_combiner: Unused = Field(None, description="vectors of one column are added up")
    std_file: Unused = Field(
        None, description="numbers are normalised by the mean and deviation of the training rows"
    )
    steps_per_stats: Unused = Field(None, description="progress is reported every second")
    task_id_column_name: Unused = Field(None, description="one task")
    task_ids: Unused = Field(None, description="one task")
    task_weights: Unused = Field(None, description="one task")
    test_batch_size: Unused = Field(None, description="changes no score")
    tfr_lambda_weights: Unused = Field(None, description="of losses over lists")
    tfr_loss_fn: Unused = Field(None, description="of losses over lists")
    use_tfr_loss: Unused = Field(None, description="of losses over lists")
    vocab_file_for_id_ftr: Unused = Field(None, description="the values of the training rows are known")
    vocab_hub_url: Unused = Field(None, description="nothing is downloaded")
    vocab_hub_url_for_id_ftr: Unused = Field(None, description="nothing is downloaded")
    we_file_for_id_ftr: Unused = Field(None, description="vectors of ids are trained from scratch")
    we_trainable_for_id_ftr: Unused = Field(None, description="vectors of ids are trained")
    PAD: Unused = Field(None, description="a code of its own")
    SEP: Unused = Field(None, description="only BERT has it")
    CLS: Unused = Field(None, description="only BERT has it")
    UNK: Unused = Field(None, description="a code of its own")
    MASK: Unused = Field(None, description="of pretraining")
    PAD_FOR_ID_FTR: Unused = Field(None, description="a code of its own")
    UNK_FOR_ID_FTR: Unused = Field(None, description="a code of its own")


def unused_keys() -> frozenset[str]:
    """Return the keys that mean nothing here."""
    return frozenset(name for name, field in DetextParams.model_fields.items() if _UNUSED in field.metadata)


def keys_of_the_job() -> frozenset[str]:
    """Return the keys that the translation of the job takes care of."""
    return frozenset(
        name for name, field in DetextParams.model_fields.items() if _ELSEWHERE in field.metadata
    )
