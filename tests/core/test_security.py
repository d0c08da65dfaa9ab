"""Tokens, roles, and where a server may listen."""

from __future__ import annotations

import pytest

from gdmix_core.errors import NotPermitted, UsageError
from gdmix_core.security import (
    Authorizer,
    Role,
    bearer_metadata,
    is_loopback,
    load_token,
    require_safe_binding,
)

TRAIN, WORKER, ADMIN = "train-token-0123456", "worker-token-012345", "admin-token-0123456"


@pytest.fixture
def token_file(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "tokens"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def test_a_token_is_good_for_its_roles_only(token_file):
    path = token_file(f"# who may what\ntrain,score {TRAIN}\n\nworker {WORKER}\nadmin {ADMIN}\n")
    authorizer = Authorizer.from_file(path)
    assert authorizer.enforced
    allowed = {
        (token, role)
        for token in (TRAIN, WORKER, ADMIN)
        for role in Role
        if _passes(authorizer, bearer_metadata(token), role)
    }
    assert allowed == {(TRAIN, Role.TRAIN), (TRAIN, Role.SCORE), (WORKER, Role.WORKER)} | {
        (ADMIN, role) for role in Role
    }


def test_a_bare_token_is_good_for_everything(token_file):
    path = token_file(TRAIN)
    assert all(_passes(Authorizer.from_file(path), bearer_metadata(TRAIN), role) for role in Role)
    assert load_token(path, role=Role.WORKER) == TRAIN


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((), "a token is needed"),
        ((("authorization", "Basic abc"),), "a token is needed"),
        (bearer_metadata("something-else-entirely"), "not one that this server knows"),
        (bearer_metadata(WORKER), "lacks the role train"),
    ],
)
def test_refusals_say_what_is_missing_and_never_the_token(token_file, metadata, message):
    authorizer = Authorizer.from_file(token_file(f"train {TRAIN}\nworker {WORKER}\n"))
    with pytest.raises(NotPermitted, match=message) as caught:
        authorizer.check(metadata, Role.TRAIN)
    assert TRAIN not in str(caught.value)
    assert WORKER not in str(caught.value)


def test_without_tokens_everybody_may():
    Authorizer().check((), Role.ADMIN)
    assert not Authorizer().enforced


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("short", "shorter than 16"),
        (f"boss {TRAIN}", "no role boss; allowed are score, train, worker, admin"),
        (f"train {TRAIN} more", "found 3 words"),
    ],
)
def test_files_that_are_no_token_files(token_file, text, message):
    path = token_file(text)
    with pytest.raises(UsageError, match=message):
        Authorizer.from_file(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_may_read_is_refused(token_file, mode):
    with pytest.raises(UsageError, match="others may read it"):
        load_token(token_file(TRAIN, mode))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_token(tmp_path / "nowhere")


def test_a_client_takes_its_token_from_the_file_or_the_environment(token_file):
    path = token_file(f"train {TRAIN}\nworker {WORKER}\n")
    environment = {"GDMIX_TOKEN": f" {ADMIN}\n"}
    assert load_token(path, role=Role.WORKER, environment=environment) == WORKER
    assert load_token(None, environment=environment) == ADMIN
    assert load_token(None, environment={}) is None
    assert bearer_metadata(None) == ()
    with pytest.raises(UsageError, match="no token for role score"):
        load_token(path, role=Role.SCORE)


def test_only_protected_servers_are_reachable_from_elsewhere():
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert is_loopback(host)
        require_safe_binding(host, tls=False, tokens=False, insecure=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert not is_loopback(host)
        require_safe_binding(host, tls=True, tokens=True, insecure=False)
        require_safe_binding(host, tls=False, tokens=False, insecure=True)
        with pytest.raises(UsageError, match="give --token-file"):
            require_safe_binding(host, tls=True, tokens=False, insecure=False)
        with pytest.raises(UsageError, match="--tls-cert/--tls-key and --token-file"):
            require_safe_binding(host, tls=False, tokens=False, insecure=False)


def _passes(authorizer, metadata, role):
    try:
        authorizer.check(metadata, role)
    except NotPermitted:
        return False
    return True
