"""Configs of LinkedIn's DeText."""

from __future__ import annotations

from typing import Any

import pytest

from gdmix_core.errors import ConfigError
from gdmix_core.fixed_effects.deep_text.detext_options import options_from_detext
from gdmix_core.fixed_effects.deep_text.options import Bert, Cnn, Recurrent

MOVIELENS: dict[str, Any] = {
    "ftr_ext": "cnn",
    "ltr_loss_fn": "pointwise",
    "learning_rate": 0.002,
    "num_classes": 1,
    "max_len": 16,
    "min_len": 3,
    "num_filters": 50,
    "num_train_steps": 1000,
    "num_units": 64,
    "optimizer": "bert_adam",
    "pmetric": "auc",
    "all_metrics": ["auc"],
    "steps_per_stats": 10,
    "steps_per_eval": 100,
    "train_batch_size": 64,
    "test_batch_size": 64,
    "vocab_file": "movieLens/detext/vocab.txt",
    "resume_training": False,
    "train_file": "movieLens/detext/trainingData/train_data.tfrecord",
    "dev_file": "movieLens/detext/validationData/test_data.tfrecord",
    "test_file": "movieLens/detext/validationData/test_data.tfrecord",
    "keep_checkpoint_max": 1,
    "distribution_strategy": "one_device",
    "num_gpu": 0,
    "gdmix_config": {"model_type": "detext"},
}
"""The fixed effect of upstream's detext-movieLens.yaml."""
COLUMNS: dict[str, Any] = {
    "doc_text_column_names": ["title"],
    "sparse_ftrs_column_names": "wide_ftrs_sp",
    "nums_sparse_ftrs": 45,
}


def test_the_movielens_example_of_upstream() -> None:
    translation = options_from_detext({**MOVIELENS, **COLUMNS})
    options = translation.options
    assert [column.column for column in options.text] == ["title"]
    assert options.encoder == Cnn(windows=(3,), filters=50)
    assert options.word_embedding.size == 64
    assert options.vocabulary.file == "movieLens/detext/vocab.txt"
    assert (options.max_len, options.min_len) == (16, 3)
    assert (options.steps, options.batch_size) == (1000, 64)
    assert options.optimizer.kind == "bert_adam"
    assert options.optimizer.learning_rate == 0.002
    assert options.optimizer.weight_decay == 0.01
    assert [(c.column, c.dimension, c.embedding) for c in options.sparse] == [("wide_ftrs_sp", 45, 0)]
    assert options.interactions == ("concatenation",)
    assert options.early_stopping is not None
    assert (options.early_stopping.metric, options.early_stopping.every_steps) == ("auc", 100)
    named = " ".join(translation.notices)
    for key in ("all_metrics", "steps_per_stats", "test_batch_size", "resume_training", "num_gpu"):
        assert f"{key} means nothing here" in named
    assert "dev_file" in named
    assert "train_file" not in named


def test_all_kinds_of_columns_and_layers() -> None:
    options = options_from_detext(
        {
            "ltr_loss_fn": "pointwise",
            "optimizer": "adamw",
            "use_bias_correction_for_adamw": True,
            "ftr_ext": "lstm",
            "num_units": 32,
            "bidirectional": True,
            "num_layers": 2,
            "num_hidden": "100,50",
            "query_column_name": "query",
            "doc_text_column_names": "title,body",
            "user_text_column_names": ["headline"],
            "doc_id_column_names": ["item"],
            "num_units_for_id_ftr": 12,
            "dense_ftrs_column_names": ["a", "b"],
            "nums_dense_ftrs": [1, 7],
            "sparse_ftrs_column_names": ["s"],
            "nums_sparse_ftrs": [9],
            "sparse_embedding_size": 4,
            "shallow_tower_sparse_ftrs_column_names": ["t"],
            "nums_shallow_tower_sparse_ftrs": [8],
            "emb_sim_func": ["inner", "hadamard", "concat", "diff"],
            "num_train_steps": 200,
            "num_warmup_steps": 50,
            "num_eval_rounds": 4,
            "l2": 0.1,
        }
    ).options
    assert options.encoder == Recurrent(kind="lstm", units=16, layers=2, bidirectional=True)
    assert options.hidden == (100, 50)
    assert options.interactions == ("cosine", "hadamard", "concatenation", "difference")
    assert [(n.column, n.vector, n.dimension) for n in options.numbers] == [
        ("a", False, None),
        ("b", True, 7),
    ]
    assert [(c.column, c.embedding) for c in options.categories] == [("item", 12)]
    assert [(c.column, c.dimension, c.embedding) for c in options.sparse] == [("s", 9, 4), ("t", 8, 0)]
    assert (options.optimizer.kind, options.optimizer.warmup) == ("adamw", 0.25)
    assert options.early_stopping is not None
    assert options.early_stopping.every_steps == 50
    assert options.l2 == 0.1


def test_bert_is_a_directory() -> None:
    translation = options_from_detext(
        {
            "ltr_loss_fn": "pointwise",
            "optimizer": "adamw",
            "ftr_ext": "bert",
            "bert_hub_url": "models/bert",
            "doc_text_column_names": ["title"],
            "lr_bert": 0.1,
        }
    )
    assert translation.options.encoder == Bert(kind="bert", directory="models/bert", learning_rate_factor=0.1)
    assert any("nothing is downloaded" in notice for notice in translation.notices)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"num_filter": 3}, ["num_filter: unknown key; did you mean num_filters?", "train_batch_size"]),
        ({"ftr_ext": "lstm_lm"}, ["ftr_ext: found 'lstm_lm'", "'cnn', 'lstm' or 'bert'"]),
        ({"ltr_loss_fn": "pairwise"}, ["ltr_loss_fn: found 'pairwise'; allowed is 'pointwise'"]),
        ({"optimizer": "lamb"}, ["optimizer: found 'lamb'; allowed are adam, adamw, bert_adam"]),
        ({"num_classes": 3}, ["num_classes: found 3; allowed is 1"]),
        ({"nums_sparse_ftrs": [1, 2]}, ["nums_sparse_ftrs: found 2 values; sparse_ftrs_column_names has 1"]),
        ({"pmetric": "ndcg@10"}, ["pmetric: found 'ndcg@10'; allowed is auc"]),
        ({"ftr_ext": "bert"}, ["bert_hub_url: missing"]),
        ({"learning_rate": 0}, ["translated to optimizer.learning_rate"]),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(changes: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        options_from_detext({**MOVIELENS, **COLUMNS, **changes})
    for message in messages:
        assert message in str(caught.value)


def test_without_columns_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        options_from_detext(MOVIELENS)
