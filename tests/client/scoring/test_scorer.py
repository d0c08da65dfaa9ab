"""Both clients against a real scorer: the same answers, errors and streams from each."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gdmix_client import (
    AsyncScorer,
    ColumnarRequest,
    Connection,
    FeatureRows,
    LocalScorer,
    PackedIds,
    ReadableRequest,
    ScoreAnswer,
    Scorer,
    Scores,
    VersionState,
    pack_ids,
    scorer_connection_to,
)
from gdmix_core.errors import DataError, GdmixError, NotFound, NotPermitted, UsageError

from .conftest import CANARY_BIAS, CANDIDATES, Candidate, feature_index

ANN = {"user_id": "ann", "age": 0.5}
ROWS = [candidate.row for candidate in CANDIDATES]
EXPECTED = [candidate.score("ann", 0.5) for candidate in CANDIDATES]


class Both:
    """Calls a method of the blocking client or of the asyncio one; its answer or its error comes back."""

    def __init__(self, connection: Connection, *, asynchronous: bool) -> None:
        self._connection = connection
        self._asynchronous = asynchronous

    def __call__(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        if self._asynchronous:
            return asyncio.run(self._in_a_loop(method, arguments, keywords))
        with Scorer(self._connection) as scorer:
            found = getattr(scorer, method)(*arguments, **keywords)
            return list(found) if method == "stream" else found

    async def _in_a_loop(self, method: str, arguments: Any, keywords: Any) -> Any:
        async with AsyncScorer(self._connection) as scorer:
            found = getattr(scorer, method)(*arguments, **keywords)
            return [answer async for answer in found] if method == "stream" else await found


@pytest.fixture(params=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest, served: LocalScorer) -> Both:
    return Both(served.connection, asynchronous=request.param == "asyncio")


def check(found: Scores, expected: Sequence[float] = EXPECTED) -> None:
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.predictions.tolist() == pytest.approx([1 / (1 + math.exp(-s)) for s in expected])
    assert not found.scores.flags.writeable
    assert (found.model, found.version, found.degraded) == ("shop", 2, False)
    assert found.instance


# ---- readable --------------------------------------------------------------------------------------------


def test_readable(ask: Both) -> None:
    found = ask("score", ANN, ROWS, model="shop", contributions=True, request_id="page 1")
    check(found)
    assert len(found) == 5
    assert found.request_id == "page 1"
    assert list(found.contributions) == ["global", "per_user", "per_item"]
    for name, values in found.contributions.items():
        own = [candidate.contributions("ann", 0.5)[name] for candidate in CANDIDATES]
        assert values.tolist() == pytest.approx(own, abs=1e-12)
    assert found.unknown_entities == {"per_item": 1}
    assert found.unknown_ids == {"per_item": ("unheard of",)}
    assert found.unknown_features == {"item.color": 1, "item.tags": 1}


def test_nothing_that_was_not_asked_for(ask: Both) -> None:
    found = ask("score", {"user_id": "bob"}, [{"item_id": 7}], model="shop")
    assert found.contributions == {}
    assert found.unknown_entities == {}
    assert found.unknown_ids == {}
    assert found.unknown_features == {}
    assert found.request_id == ""


@pytest.mark.parametrize("kind", ["lists", "numpy", "arrow"])
def test_candidates_column_by_column(ask: Both, kind: str) -> None:
    candidates = (Candidate(7, "red", ["x"], [0.5, 1.0]), Candidate(9, "blue", ["2", "x"], [0.0, 0.25]))
    columns: dict[str, Any] = {name: [c.row[name] for c in candidates] for name in candidates[0].row}
    if kind == "numpy":
        columns |= {"item_id": np.array([7, 9]), "color": np.array(["red", "blue"])}
        columns |= {"vector": np.array([[0.5, 1.0], [0.0, 0.25]], np.float32)}
    elif kind == "arrow":
        columns = {name: pa.array(values) for name, values in columns.items()}
    check(ask("score", ANN, columns, model="shop"), [c.score("ann", 0.5) for c in candidates])


def test_values_of_every_kind(ask: Both) -> None:
    """Numpy's scalars, booleans, integers where the model has terms or numbers, sparse and dense vectors."""
    expected = Candidate(7, "red", ["1", "1", "2"], [0.0, 3.0])
    same: list[dict[str, Any]] = [
        {"item_id": np.int32(7), "color": np.str_("red"), "tags": np.array([1, 1, 2]), "vector": [0, 3]},
        {"item_id": "7", "color": "red", "tags": (1, 1, 2), "vector": {"indices": [1], "values": [3]}},
        {"item_id": 7, "color": "red", "tags": ["1", "1", "2", None], "vector": [None, 3.0]},
    ]
    for row in same:
        found = ask("score", {"user_id": "ann", "age": np.float32(0.5)}, [row], model="shop")
        check(found, [expected.score("ann", 0.5)])
    truth = ask("score", {"user_id": "ann", "age": True}, [expected.row], model="shop")
    check(truth, [expected.score("ann", 1.0)])


def test_lists_of_whole_and_broken_numbers_in_one_column(ask: Both) -> None:
    rows = [{"vector": [1, 0]}, {"vector": [0.5, 0]}, {"vector": np.array([0, 2])}]
    expected = [Candidate(vector=v).score("ann", 0.5) for v in ([1, 0], [0.5, 0], [0, 2])]
    check(ask("score", ANN, rows, model="shop"), expected)


def test_versions_and_aliases(ask: Both) -> None:
    for choice in ({"version": 1}, {"alias": "canary"}):
        found = ask("score", ANN, ROWS, model="shop", **choice)
        assert found.version == 1
        assert found.scores.tolist() == pytest.approx([score + CANARY_BIAS for score in EXPECTED])
    assert ask("score", ANN, ROWS, model="shop", version=2).version == 2


def test_scores_of_an_outside_model(ask: Both) -> None:
    rows = [{"color": "red"}, {"color": "blue"}]
    own = [Candidate(color=row["color"]).contributions("ann", 0.0)["per_user"] for row in rows]
    for given, added in ((2.5, [2.5, 2.5]), ([1.0, -1], [1.0, -1.0]), (np.array([0.5, 0]), [0.5, 0.0])):
        found = ask(
            "score", {"user_id": "ann"}, rows, model="outside", fixed_effect_scores=given, contributions=True
        )
        assert found.scores.tolist() == pytest.approx([a + b for a, b in zip(own, added, strict=True)])
        assert found.predictions.tolist() == found.scores.tolist()
        assert found.contributions["base"].tolist() == added
    with pytest.raises(UsageError, match="fixed_effect_score"):
        ask("score", {"user_id": "ann"}, rows, model="outside")
    with pytest.raises(UsageError, match="fixed_effect_score"):
        ask("score", ANN, rows, model="shop", fixed_effect_scores=1.0)


@pytest.mark.parametrize(
    ("context", "rows", "keywords", "kind", "says"),
    [
        (ANN, ROWS, {"model": "shoe"}, NotFound, "shoe"),
        (ANN, ROWS, {"model": "shop", "version": 9}, NotFound, "9"),
        (ANN, ROWS, {"model": "shop", "alias": "champion"}, NotFound, "champion"),
        (ANN, ROWS, {}, UsageError, "outside"),
        (ANN, [], {"model": "shop"}, UsageError, "candidates"),
        (ANN, [{"user_id": "bob"}], {"model": "shop"}, UsageError, "user_id"),
        ({"age": "old"}, ROWS, {"model": "shop"}, DataError, "context: column 'age' holds 'old'"),
        (ANN, [{}, {"vector": [1.0]}], {"model": "shop"}, DataError, r"candidates\[1\]: column 'vector'"),
        (ANN, [{"item_id": 1}, {"item_id": "a"}], {"model": "shop"}, UsageError, "item_id"),
        ({"age": math.nan}, ROWS, {}, UsageError, "context: column 'age' holds nan"),
        (ANN, [{}, {"color": {1, 2}}], {}, UsageError, r"candidates\[1\]: column 'color' holds {1, 2} \(set"),
        (ANN, ROWS, {"version": 1, "alias": "canary"}, UsageError, "version and alias"),
        (ANN, ROWS, {"version": 0}, UsageError, "version"),
        (ANN, ROWS, {"request_id": "x" * 129}, UsageError, "request_id"),
        (ANN, ROWS, {"timeout_seconds": 0}, UsageError, "timeout_seconds"),
    ],
)
def test_what_cannot_be_scored(
    ask: Both, context: Any, rows: Any, keywords: dict[str, Any], kind: type[GdmixError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        ask("score", context, rows, **keywords)
    assert "coordinator" not in str(caught.value)


# ---- columnar --------------------------------------------------------------------------------------------


def columnar(**changes: Any) -> ColumnarRequest:
    """The same question as the readable one, in arrays."""
    matrix = np.array([candidate.features for candidate in CANDIDATES])
    _, columns = np.nonzero(matrix)
    item = FeatureRows(
        bag="item",
        indices=columns.astype(np.int32),
        values=matrix[matrix != 0],
        row_offsets=np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=1))]),
    )
    user = FeatureRows(bag="user", indices=np.array([0]), values=np.array([0.5]))
    given: dict[str, Any] = {
        "model": "shop",
        "candidates": len(CANDIDATES),
        "schema_fingerprint": feature_index().schema_fingerprint,
        "features": (user, item),
        "entities": {"user_id": "ann", "item_id": [candidate.item_id for candidate in CANDIDATES]},
    }
    return ColumnarRequest(**(given | changes))


def test_columnar(ask: Both) -> None:
    found = ask("score_columnar", columnar(contributions=True, request_id="7"))
    check(found)
    assert found.request_id == "7"
    assert found.unknown_entities == {"per_item": 1}
    assert found.unknown_ids == {}
    readable = ask("score", ANN, ROWS, model="shop", contributions=True)
    assert found.scores.tobytes() == readable.scores.tobytes()
    for name, values in readable.contributions.items():
        assert found.contributions[name].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "ids",
    [
        [7, "9", "é", "unheard of", None],
        np.array(["7", "9", "é", "unheard of", ""]),
        np.array(["7", "9", "é", "unheard of", None], object),
        np.char.encode(np.array(["7", "9", "é", "unheard of", ""]), "utf-8"),
        PackedIds("79éunheard of".encode(), np.array([0, 1, 2, 4, 14, 14])),
        pack_ids([7, "9", "é", "unheard of", None]),
    ],
)
def test_ids_of_every_kind(ask: Both, ids: Any) -> None:
    check(ask("score_columnar", columnar(entities={"user_id": "ann", "item_id": ids})))


def test_integer_ids_and_float32_values(ask: Both) -> None:
    request = ColumnarRequest(
        model="shop",
        candidates=3,
        schema_fingerprint=feature_index().schema_fingerprint,
        features=[
            FeatureRows(
                bag="item",
                indices=np.array([6, 6], np.uint8),
                values=np.array([0.5, -0.25], np.float32),
                row_offsets=np.array([0, 1, 1, 2]),
            )
        ],
        entities={"item_id": np.array([7, 9, -3], np.int16)},
    )
    vectors = ([0, 0.5], None, [0, -0.25])
    expected = [
        Candidate(item, None, None, v).score(None, 0) for item, v in zip((7, 9, -3), vectors, strict=True)
    ]
    check(ask("score_columnar", request), expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_fingerprint": ""}, "schema_fingerprint"),
        ({"schema_fingerprint": "0" * 16}, "schema_fingerprint"),
        ({"candidates": 4}, "6 row offsets; 4 candidates need 5"),
        ({"features": (), "candidates": 4}, r"entities\['item_id'\]: found 5 ids; there are 4 candidates"),
        ({"candidates": -1}, "candidates: found -1"),
        ({"candidates": 0, "features": (), "entities": {}}, "candidates"),
        ({"entities": {"user_id": 1.5}}, "user_id"),
        ({"entities": {"user_id": ["a", "b", 3.5, "c", "d"]}}, r"entities\['user_id'\]\[2\]: found 3.5"),
        ({"fixed_effect_scores": [1.0, 2.0]}, "fixed_effect_scores: found 2"),
        ({"fixed_effect_scores": 1.0}, "fixed_effect_score"),
    ],
)
def test_what_columnar_requests_must_not_hold(ask: Both, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask("score_columnar", columnar(**changes))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (FeatureRows(bag="item", indices=np.array([2**31]), values=np.ones(1)), "2147483648"),
        (FeatureRows(bag="item", indices=np.array([0.5]), values=np.ones(1)), "integers"),
        (FeatureRows(bag="item", indices=np.array([0]), values=np.ones(2)), "1 indices and 2 values"),
        (FeatureRows(bag="item", indices=np.array([0]), values=np.array(["a"])), "numbers"),
        (FeatureRows(bag="item", indices=np.array([7]), values=np.ones(1)), "0 to 6"),
        (FeatureRows(bag="item", indices=np.array([0]), values=np.array([math.inf])), "finite"),
        (FeatureRows(bag="nobody's", indices=np.array([0]), values=np.ones(1)), "nobody's"),
    ],
)
def test_features_that_make_no_sense(ask: Both, rows: FeatureRows, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask("score_columnar", columnar(features=(rows,)))


# ---- streams ---------------------------------------------------------------------------------------------


def readable(rows: Any = None, request_id: str = "", **changes: Any) -> ReadableRequest:
    return ReadableRequest(
        **{
            "model": "shop",
            "context": ANN,
            "candidates": ROWS if rows is None else rows,
            "request_id": request_id,
            **changes,
        }
    )


def test_a_stream_keeps_the_order(ask: Both) -> None:
    requests = [
        readable(request_id="0"),
        readable([{"color": {"no": "value"}}], request_id="1"),  # cannot be sent
        columnar(request_id="2"),
        readable(request_id="3", model="shoe"),  # the scorer refuses
        readable([{"vector": [1.0]}], request_id="4"),
        readable(request_id="5", version=1),
        readable([{"color": object()}], request_id="6"),
        readable([{"color": object()}], request_id="7"),
    ]
    found: list[ScoreAnswer] = ask("stream", requests)
    assert [answer.request_id for answer in found] == [str(i) for i in range(8)]
    kinds = [None if answer.error is None else type(answer.error) for answer in found]
    assert kinds == [None, UsageError, None, NotFound, DataError, None, UsageError, UsageError]
    check(found[0].result())
    check(found[2].result())
    assert found[5].result().version == 1
    for answer in found:
        assert (answer.scores is None) == (answer.error is not None)
    with pytest.raises(NotFound, match="shoe"):
        found[3].result()


def test_a_long_stream(ask: Both) -> None:
    requests = (readable([{"item_id": i}] * (1 + i % 3), request_id=str(i)) for i in range(500))
    found = ask("stream", requests)
    assert [answer.request_id for answer in found] == [str(i) for i in range(500)]
    assert [len(answer.result()) for answer in found] == [1 + i % 3 for i in range(500)]
    assert ask("stream", []) == []


def test_a_stream_raises_what_its_iterator_raises(ask: Both) -> None:
    def requests() -> Iterator[ReadableRequest]:
        yield readable()
        raise LookupError("the feed broke")

    with pytest.raises(LookupError, match="the feed broke"):
        ask("stream", requests())


def test_a_stream_may_be_left_early(served: LocalScorer) -> None:
    asked = threading.Event()

    def requests() -> Iterator[ReadableRequest]:
        yield readable(request_id="first")
        asked.wait(60)  # until the test is over: the answer must come without the next request

    with served.client() as scorer:
        for answer in scorer.stream(requests()):
            assert answer.request_id == "first"
            break
        check(scorer.score(ANN, ROWS, model="shop"))
    asked.set()


def test_an_asynchronous_iterator(served: LocalScorer) -> None:
    async def requests(answered: asyncio.Queue[str]) -> AsyncIterator[ReadableRequest]:
        yield readable(request_id="0")
        for i in range(1, 4):
            assert await answered.get() == str(i - 1)
            yield readable(request_id=str(i))

    async def converse() -> list[str]:
        answered: asyncio.Queue[str] = asyncio.Queue()
        async with AsyncScorer(served.connection) as scorer:
            seen = []
            async for answer in scorer.stream(requests(answered)):
                seen.append(answer.request_id)
                answered.put_nowait(answer.request_id)
            return seen

    assert asyncio.run(converse()) == ["0", "1", "2", "3"]


# ---- status, many callers --------------------------------------------------------------------------------


def test_status(ask: Both) -> None:
    ask("score", ANN, ROWS, model="shop", alias="canary")
    status = ask("status", "shop")
    assert status.instance
    versions = {version.version: version for version in status.versions}
    assert set(versions) == {1, 2}
    assert versions[2].active
    assert not versions[1].active
    assert versions[1].aliases == ("canary",)
    for version in versions.values():
        assert version.model == "shop"
        assert version.state is VersionState.AVAILABLE
        assert version.error is None
        assert version.since > 0
        assert version.schema_fingerprint == feature_index().schema_fingerprint
        assert version.entities == {"per_item": 3, "per_user": 2}
    assert versions[1].requests > 0
    assert {version.model for version in ask("status").versions} == {"shop", "outside"}
    assert [version.version for version in ask("status", "shop", 2).versions] == [2]


def test_threads_share_a_client(served: LocalScorer) -> None:
    with served.client() as scorer:
        failures: list[BaseException] = []

        def ask_many(user: str) -> None:
            expected = [candidate.score(user, 0.5) for candidate in CANDIDATES]
            try:
                for _ in range(50):
                    check(scorer.score({"user_id": user, "age": 0.5}, ROWS, model="shop"), expected)
            except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
                failures.append(error)

        threads = [threading.Thread(target=ask_many, args=(user,)) for user in ("ann", "bob", "carl", "ann")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_tasks_share_a_client(served: LocalScorer) -> None:
    async def ask_many() -> list[Scores]:
        async with AsyncScorer(served.connection, channels=2) as scorer:
            asked = (
                scorer.score_columnar(columnar(request_id=str(i)), timeout_seconds=30) for i in range(100)
            )
            return await asyncio.gather(*asked)

    found = asyncio.run(ask_many())
    assert [scores.request_id for scores in found] == [str(i) for i in range(100)]
    for scores in found:
        check(scores)


# ---- connections -----------------------------------------------------------------------------------------


def test_tokens(served: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    for connection in (served.address, Connection(served.address, "not the token of it")):
        with Scorer(connection) as scorer, pytest.raises(NotPermitted, match="token"):
            scorer.score(ANN, ROWS, model="shop")
        with Scorer(connection) as scorer, pytest.raises(NotPermitted, match="token"):
            list(scorer.stream([readable()]))
    monkeypatch.setenv("GDMIX_SCORER", served.address)
    monkeypatch.setenv("GDMIX_TOKEN", served.token_file.read_text(encoding="ascii").strip())
    with Scorer() as scorer:
        assert scorer.address == served.address
        check(scorer.score(ANN, ROWS, model="shop"))
    monkeypatch.delenv("GDMIX_TOKEN")
    with Scorer(scorer_connection_to(token_file=served.token_file)) as scorer:
        check(scorer.score(ANN, ROWS, model="shop"))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (Scorer, "no scorer: give HOST:PORT by --scorer or GDMIX_SCORER"),
        (lambda: Scorer("here"), "scorer 'here': not of the form HOST:PORT"),
        (lambda: Scorer("127.0.0.1:1", channels=0), "channels: found 0"),
    ],
)
def test_connections_that_make_no_sense(act: Callable[[], Scorer], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        act()
    assert says in str(caught.value)


def test_a_closed_client(served: LocalScorer) -> None:
    scorer = served.client()
    scorer.close()
    with pytest.raises(UsageError, match="closed"):
        scorer.score(ANN, ROWS, model="shop")

    async def ask_closed() -> None:
        asynchronous = AsyncScorer(served.connection)
        await asynchronous.close()
        await asynchronous.score(ANN, ROWS, model="shop")

    with pytest.raises(UsageError, match="closed"):
        asyncio.run(ask_closed())
