"""No name or id can break out of its own key."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gdmix_core.errors import UsageError
from gdmix_core.store import keys

nasty = st.binary(min_size=1, max_size=40) | st.text(
    alphabet="a%:{}0123ABvesb*?[]\\\n\x00\x7fé", min_size=1, max_size=20
).map(str.encode)
name = st.text(alphabet="a%:{}v1e/", min_size=1, max_size=8)


@given(nasty, nasty)
@example(b"a:b", b"a%3Ab")
@example(b"%", b"%25")
def test_escaping_is_injective_and_reversible(one: bytes, other: bytes) -> None:
    assert keys.unescape(keys.escape(one)) == one
    assert (keys.escape(one) == keys.escape(other)) == (one == other)
    assert not set(keys.escape(one)) & (set(range(32)) | set(b":{}\x7f"))


@given(st.lists(st.tuples(name, st.integers(1, 30), name, nasty), min_size=2, max_size=2))
@example([("a", 1, "e:x", b"y"), ("a", 1, "e", b"x:y")])
@example([("a:v1:e", 1, "b", b"c"), ("a", 1, "b", b"c")])
def test_no_two_entities_share_a_key_and_none_takes_a_keys_place(
    places: list[tuple[str, int, str, bytes]],
) -> None:
    first, second = (
        keys.version_prefix(model, version) + keys.entity_key(coordinate, entity)
        for model, version, coordinate, entity in places
    )
    assert (first == second) == (places[0] == places[1])
    reserved = {keys.MODELS}
    for other, number, blob, _ in places:
        prefix = keys.version_prefix(other, number)
        reserved |= {prefix + keys.SEAL, prefix + keys.MANIFEST, prefix + keys.blob_key(blob, 0)}
        reserved |= {keys.model_prefix(other) + b"control", keys.model_prefix(other) + b"active"}
    assert first not in reserved
    assert not set(first) & set(b"{}")


@given(name, st.integers(1, 30), name, nasty, name, st.integers(1, 30))
def test_scanning_a_version_never_finds_another(
    model: str, version: int, coordinate: str, entity: bytes, other: str, number: int
) -> None:
    key = keys.version_prefix(model, version) + keys.entity_key(coordinate, entity)
    assert key.startswith(keys.version_prefix(other, number)) == ((model, version) == (other, number))


def test_glob_characters_are_taken_literally() -> None:
    assert keys.glob_of(b"gdmix:a*[b]?\\:") == rb"gdmix:a\*\[b\]\?\\:" + b"*"
    assert fnmatch.fnmatch("gdmix:a:v1:x", keys.glob_of(b"gdmix:a:v1:").decode())


def test_an_id_too_long_to_be_stored_has_a_key_that_is_never_present() -> None:
    assert keys.entity_key("c", b":" * 86) == b"e:c:"
    assert keys.entity_key("c", b"x" * 256) == b"e:c:" + b"x" * 256


@pytest.mark.parametrize("bad", ["", "x" * 129, ":" * 43])
def test_names_are_bounded(bad: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        keys.name_part(bad, "model")
