"""From a model directory into the embedded store (the store's own suite covers both kinds)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gdmix_core.errors import DataError, StoreCorrupt
from gdmix_core.model import ModelDirectory, manifest_from_json, publish_model
from gdmix_core.model.coefficients import read_fixed_effect, read_random_effect
from gdmix_core.model.publishing import activate_published, finish_publication, publish_part
from gdmix_core.store import CoefficientStore, decode, open_store

MakeModel = Callable[..., ModelDirectory]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CoefficientStore]:
    with open_store(f"lmdb:{tmp_path / 'store'}") as opened:
        yield opened


def test_everything_a_scorer_needs_is_in_the_store(make_model: MakeModel, store: CoefficientStore) -> None:
    model = make_model(variances=True)
    seen: list[tuple[int, int]] = []
    done = publish_model(model, store, progress=lambda entities, total: seen.append((entities, total)))
    assert (done.version, done.activated, done.winner, done.entities) == (1, True, None, {"per_user": 40})
    assert seen == [(20, 40), (40, 40)]
    assert store.get_active("movies") == 1
    assert manifest_from_json(store.read_manifest("movies", 1)) == model.manifest
    assert store.read_blob("movies", 1, "feature_index.parquet") == b"the feature index"
    fixed = read_fixed_effect(store.read_blob("movies", 1, "global/coefficients.parquet"))
    assert fixed.coefficients.tolist() == [0.5, -1.0]

    part = read_random_effect(model.parts("per_user")[1]).block
    records = store.get_many("movies", 1, {"per_user": [b"user03", b"user40"]}).records["per_user"]
    assert records[0] is not None
    assert records[1] is None
    record = decode(records[0], model.manifest.schema)
    of_entity = slice(part.coefficient_ptr[1], part.coefficient_ptr[2])
    np.testing.assert_array_equal(record.coefficients, part.coefficients[of_entity])
    assert part.variances is not None
    np.testing.assert_array_equal(record.variances, part.variances[of_entity])


def test_refilling_an_empty_store_keeps_the_number(make_model: MakeModel, store: CoefficientStore) -> None:
    model = make_model(version=7)
    assert publish_model(model, store).version == 7
    again = publish_model(model, store, activate=False)
    assert (again.version, again.activated) == (8, False)
    assert manifest_from_json(store.read_manifest("movies", 8)).version == 8
    assert store.get_active("movies") == 7


def test_a_publisher_that_comes_second_learns_who_won(make_model: MakeModel, store: CoefficientStore) -> None:
    model = make_model()
    ticket = store.begin_version("movies", epoch=1)
    parts = [publish_part(store, ticket, model, "per_user", number) for number in (0, 1, 0)]
    publish_model(model, store)
    finish_publication(store, ticket, model, parts)
    outcome = activate_published(store, ticket)
    assert (outcome.version, outcome.activated, outcome.winner) == (1, False, 2)
    assert outcome.entities == {"per_user": 40}


def test_what_fails_leaves_nothing_in_the_store(make_model: MakeModel, store: CoefficientStore) -> None:
    model = make_model()
    ticket = store.begin_version("movies")
    with pytest.raises(StoreCorrupt, match="has 40 entities, but its parts add up to 20"):
        finish_publication(store, ticket, model, [publish_part(store, ticket, model, "per_user", 0)])
    store.abandon(ticket)
    path = model.parts("per_user")[0]
    path.write_bytes(model.parts("per_user")[1].read_bytes())
    with pytest.raises(DataError, match="content_digest"):
        publish_model(model, store)
    assert store.list_versions("movies") == []
