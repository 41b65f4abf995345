"""Signed environment ids: any replica issues them, and every replica accepts them."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.errors import ConfigurationError

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

from cci_plugins.server.mcp.environments import (
    EnvironmentIdError,
    OpenEnvironments,
    SignedEnvironments,
)

OLD, NEW = b"o" * 32, b"n" * 32
SECRETS = st.binary(min_size=32, max_size=80)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def refusal(environments, environment_id) -> EnvironmentIdError:
    with pytest.raises(EnvironmentIdError) as caught:
        environments.resolve_session_id(environment_id)
    return caught.value


@given(SECRETS, st.floats(0, 2**32 - 1))
def test_every_replica_with_the_secret_maps_an_id_to_the_same_session(secret, now):
    one, other = (SignedEnvironments(secret, clock=lambda: now) for _ in range(2))
    environment_id = one.mint()
    assert re.fullmatch(r"[A-Za-z0-9_-]{44}", environment_id)
    session_id = other.resolve_session_id(environment_id)
    assert session_id == one.resolve_session_id(environment_id)
    assert re.fullmatch(r"cci-[0-9a-f]{64}", session_id)


def test_each_launch_is_another_environment_and_another_session():
    environments = SignedEnvironments(NEW)
    ids = {environments.mint() for _ in range(100)}
    assert len(ids) == len({environments.resolve_session_id(one) for one in ids}) == 100


def test_a_session_identifier_is_not_accepted_as_an_id():
    environments = SignedEnvironments(NEW)
    session_id = environments.resolve_session_id(environments.mint())
    assert refusal(environments, session_id).code == "EnvironmentNotFound"


def test_an_id_with_one_changed_letter_is_refused():
    environments = SignedEnvironments(NEW)
    environment_id = environments.mint()
    for place in range(len(environment_id)):
        for letter in set(LETTERS) - {environment_id[place]}:
            refusal(environments, environment_id[:place] + letter + environment_id[place + 1 :])


def test_a_shorter_or_longer_id_is_refused():
    environments = SignedEnvironments(NEW)
    environment_id = environments.mint()
    for length in range(len(environment_id)):
        refusal(environments, environment_id[:length])
    for more in ("A", "=", "\n", " ", environment_id):
        refusal(environments, environment_id + more)
        refusal(environments, more + environment_id)


@given(st.text() | st.text(LETTERS, min_size=44, max_size=44) | st.none() | st.integers())
def test_an_id_that_was_not_issued_is_refused(environment_id):
    error = refusal(SignedEnvironments(NEW), environment_id)
    assert error.code == "EnvironmentNotFound"
    assert "does not exist" in str(error)


def test_an_id_signed_with_another_secret_is_refused():
    refusal(SignedEnvironments(NEW), SignedEnvironments(OLD).mint())


def test_a_secret_is_replaced_without_losing_an_environment():
    before, during, after = (
        SignedEnvironments(OLD),
        SignedEnvironments(NEW, OLD),
        SignedEnvironments(NEW),
    )
    old, new = before.mint(), during.mint()
    assert during.resolve_session_id(old) == before.resolve_session_id(old)
    assert during.resolve_session_id(new) == after.resolve_session_id(new)
    refusal(after, old)
    refusal(before, new)


def test_an_id_is_accepted_until_it_is_too_old():
    now = 1_000_000.0
    environments = SignedEnvironments(NEW, max_age=timedelta(minutes=1), clock=lambda: now)
    environment_id = environments.mint()
    now += 60
    assert environments.resolve_session_id(environment_id)
    now += 1
    assert "too old" in str(refusal(environments, environment_id))


@pytest.mark.parametrize("secrets", [(), (b"",), (b"x" * 31,), (NEW, b"short")])
def test_a_secret_that_can_be_guessed_is_a_configuration_error(secrets):
    with pytest.raises(ConfigurationError, match="32 bytes"):
        SignedEnvironments(*secrets)


def test_without_a_secret_any_session_identifier_is_accepted():
    environments = OpenEnvironments()
    assert environments.resolve_session_id("my-own") == "my-own"
    assert environments.resolve_session_id(environments.mint())
    for wrong in ("abc", "x" * 129, "with space", None, 1234):
        assert refusal(environments, wrong).code == "InvalidLengthOfSessionIdentifier"
