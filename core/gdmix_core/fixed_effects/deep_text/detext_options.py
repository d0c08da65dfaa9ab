"""A config of LinkedIn's DeText, translated into the options of a deep text effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from gdmix_core.errors import ConfigError
from gdmix_core.fixed_effects.deep_text.detext_format import DetextParams, keys_of_the_job, unused_keys
from gdmix_core.fixed_effects.deep_text.options import DeepTextOptions

_INTERACTIONS: Final = {
    "inner": "cosine",
    "hadamard": "hadamard",
    "concat": "concatenation",
    "diff": "difference",
}
_WEIGHT_DECAY: Final = 0.01
"""DeText's, a constant in its code."""
_NEVER: Final = 1_000_000
_TASKS: Final = ("ranking", "binary_classification")


@dataclass(frozen=True, slots=True)
class DetextTranslation:
    """Options, and what their author should know.

    Attributes:
        options: of the effect, checked.
        notices: what was left out, and what means something else.
    """

    options: DeepTextOptions
    notices: tuple[str, ...]


def options_from_detext(params: Mapping[str, Any]) -> DetextTranslation:
    """Translate DeText's keys; those of the job's data (files, label, weight, uid) are left to the caller.

    Raises:
        ConfigError: keys that DeText does not have, values that it does not allow, or what only it can do: all of
            them, each with what is allowed.
    """
    try:
        config = DetextParams.model_validate(dict(params))
    except ValidationError as error:
        raise _error([_described(details) for details in error.errors(include_url=False)]) from error
    problems = list(_impossible(config))
    if problems:
        raise _error(problems)
    try:
        options = DeepTextOptions.model_validate(_options(config))
    except ValidationError as error:
        raise _error([_of_options(details) for details in error.errors(include_url=False)]) from error
    return DetextTranslation(options, tuple(_notices(config, params)))


def _options(config: DetextParams) -> dict[str, Any]:
    texts = config.doc_text_column_names if config.use_deep else ()
    query = config.query_column_name if config.use_deep else ""
    users = config.user_text_column_names if config.use_deep else ()
    ids = (*config.doc_id_column_names, *config.user_id_column_names) if config.use_deep else ()
    options: dict[str, Any] = {
        "text": texts,
        "query": query or None,
        "user_text": users,
        "numbers": [
            {"column": name, "vector": True, "dimension": size} if size > 1 else name
            for name, size in zip(config.dense_ftrs_column_names, config.nums_dense_ftrs, strict=True)
        ],
        "categories": [{"column": name, "embedding": config.num_units_for_id_ftr} for name in ids],
        "sparse": [*_sparse(config)],
        "max_len": config.max_len,
        "min_len": min(config.min_len, config.max_len),
        "hidden": [units for units in config.num_hidden if units],
        "activation": "tanh",
        "dropout": config.dropout or 0.0,
        "l1": config.l1 or 0.0,
        "l2": config.l2 or 0.0,
        "batch_size": config.train_batch_size,
        "optimizer": _optimizer(config),
        "early_stopping": {
            "metric": config.pmetric,
            "every_steps": _evaluation_steps(config),
            "patience": _NEVER,
        },
    }
    options |= {"epochs": config.num_epochs} if config.num_epochs else {"steps": config.num_train_steps}
    if texts and (query or users):
        options["interactions"] = [_INTERACTIONS[kind] for kind in config.emb_sim_func]
    if texts or query or users:
        options |= _text_options(config)
    return options


def _text_options(config: DetextParams) -> dict[str, Any]:
    if config.ftr_ext == "bert":
        encoder: dict[str, Any] = {"kind": "bert", "directory": config.bert_hub_url or ""}
        if config.lr_bert:
            encoder["learning_rate_factor"] = config.lr_bert
        return {"encoder": encoder}
    encoder = {"kind": "cnn", "windows": config.filter_window_sizes, "filters": config.num_filters}
    if config.ftr_ext == "lstm":
        # DeText's state has num_units in both directions together.
        units = config.num_units // 2 if config.bidirectional else config.num_units
        encoder = {
            "kind": "lstm",
            "units": units,
            "layers": config.num_layers,
            "bidirectional": config.bidirectional,
            "dropout": config.rnn_dropout,
        }
    vectors: dict[str, Any] = {"size": config.num_units}
    if config.we_file:
        vectors = {"file": config.we_file, "trainable": config.we_trainable}
    vocabulary = {"file": config.vocab_file} if config.vocab_file else {}
    return {"encoder": encoder, "word_embedding": vectors, "vocabulary": vocabulary}


def _sparse(config: DetextParams) -> Iterator[dict[str, Any]]:
    size = config.sparse_embedding_size
    for name, dimension in zip(config.sparse_ftrs_column_names, config.nums_sparse_ftrs, strict=True):
        # One number a feature is a linear term, which every sparse column has.
        yield {"column": name, "dimension": dimension, "embedding": size if size > 1 else 0}
    for name, dimension in zip(
        config.shallow_tower_sparse_ftrs_column_names, config.nums_shallow_tower_sparse_ftrs, strict=True
    ):
        if name not in config.sparse_ftrs_column_names:
            yield {"column": name, "dimension": dimension}


def _optimizer(config: DetextParams) -> dict[str, Any]:
    corrected = config.optimizer == "adam" or (
        config.optimizer == "adamw" and config.use_bias_correction_for_adamw
    )
    steps = config.num_train_steps
    warm_up = config.num_warmup_steps / steps if config.use_lr_schedule and not config.num_epochs else 0.0
    return {
        "kind": "adamw" if corrected else "bert_adam",
        "learning_rate": config.learning_rate,
        "weight_decay": 0.0 if config.optimizer == "adam" else _WEIGHT_DECAY,
        "warmup": min(warm_up, 0.99),
        "decay": "linear" if config.use_lr_schedule else "none",
        "clip_norm": config.max_gradient_norm,
    }


def _evaluation_steps(config: DetextParams) -> int:
    if config.num_eval_rounds:
        return max(1, config.num_train_steps // config.num_eval_rounds)
    return config.steps_per_eval


def _impossible(config: DetextParams) -> Iterator[str]:
    """Yield what only DeText can do."""
    if config.ltr_loss_fn != "pointwise":
        yield (
            f"ltr_loss_fn: found {config.ltr_loss_fn!r}; allowed is 'pointwise': random effects need a score of each "
            "row, not of lists"
        )
    if config.num_classes > 1:
        yield f"num_classes: found {config.num_classes}; allowed is 1"
    if config.task_type not in _TASKS:
        yield f"task_type: found {config.task_type!r}; allowed are {', '.join(_TASKS)}"
    if config.optimizer in {"sgd", "lamb"}:
        yield f"optimizer: found {config.optimizer!r}; allowed are adam, adamw, bert_adam"
    if config.ftr_ext == "bert" and not config.bert_hub_url:
        yield "bert_hub_url: missing; ftr_ext bert needs a directory with config.json, vocab.txt and weights"
    if config.pmetric not in {None, "auc"}:
        yield f"pmetric: found {config.pmetric!r}; allowed is auc"
    pairs: tuple[tuple[str, Sequence[str], str, Sequence[int]], ...] = (
        (
            "dense_ftrs_column_names",
            config.dense_ftrs_column_names,
            "nums_dense_ftrs",
            config.nums_dense_ftrs,
        ),
        (
            "sparse_ftrs_column_names",
            config.sparse_ftrs_column_names,
            "nums_sparse_ftrs",
            config.nums_sparse_ftrs,
        ),
        (
            "shallow_tower_sparse_ftrs_column_names",
            config.shallow_tower_sparse_ftrs_column_names,
            "nums_shallow_tower_sparse_ftrs",
            config.nums_shallow_tower_sparse_ftrs,
        ),
    )
    for names_key, names, sizes_key, sizes in pairs:
        if len(names) != len(sizes):
            yield f"{sizes_key}: found {len(sizes)} values; {names_key} has {len(names)}, and each needs one"


def _notices(config: DetextParams, params: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(unused_keys() & set(params)):
        yield f"{name} means nothing here: {DetextParams.model_fields[name].description}"
    yield (
        "the best step is chosen on a tenth of the training rows, which is held out; DeText chooses it on dev_file, "
        "the validation rows (early_stopping: {on: validation} does that)"
    )
    if config.num_epochs and "num_train_steps" in params:
        yield "num_train_steps means nothing with num_epochs"
    if config.num_epochs and config.num_warmup_steps:
        yield "num_warmup_steps means nothing with num_epochs: optimizer.warmup is a share of all steps"
    if not config.use_deep:
        yield "use_deep is false: text and id columns are left out"
    if config.we_file and config.ftr_ext != "bert":
        yield "we_file is read as text, in the format of word2vec or GloVe; DeText's is an array of numpy"
    if config.ftr_ext == "bert":
        yield "bert_hub_url is taken as a directory with config.json, vocab.txt and weights: nothing is downloaded"


def _described(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        known = sorted(set(DetextParams.model_fields) - unused_keys() - keys_of_the_job())
        close = get_close_matches(key, DetextParams.model_fields, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        return f"{key}: unknown key; {meant}Known keys are {', '.join(known)}"
    return f"{key}: found {details['input']!r}; {details['msg'].removeprefix('Value error, ')}"


def _of_options(details: Any) -> str:
    path = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    return f"translated to {path}: {message}" if path else message


def _error(problems: Sequence[str]) -> ConfigError:
    count = len(problems)
    headline = f"DeText's keys: {count} mistake{'s' if count > 1 else ''}"
    return ConfigError("\n  ".join([headline, *problems]), tuple(problems))
