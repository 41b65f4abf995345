"""Tests of who may see the console's page, on a clock of the test's own."""

import pytest

pytest.importorskip("starlette")

from cci_plugins.server.console_page.gate import MAX_AGE_SECONDS, MAX_VISITS, ConsoleGate

KEY = "a-key-for-the-tests"


def build_scope(cookie: str = "", path: str = "/sessions") -> dict:
    headers = [(b"cookie", cookie.encode())] if cookie else []
    return {"type": "http", "path": path, "method": "GET", "scheme": "http", "headers": headers}


def sign_in(gate: ConsoleGate) -> str:
    answer = gate.sign_in(KEY, build_scope())
    assert answer is not None
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_visit_ends_after_its_time() -> None:
    seconds = [0.0]
    gate = ConsoleGate(KEY, clock=lambda: seconds[0])
    cookie = sign_in(gate)
    seconds[0] = MAX_AGE_SECONDS - 1
    assert gate.find(build_scope(cookie)) is not None
    seconds[0] = MAX_AGE_SECONDS
    assert gate.find(build_scope(cookie)) is None


def test_the_number_of_visits_is_bounded_and_the_oldest_ends() -> None:
    gate = ConsoleGate(KEY)
    cookies = [sign_in(gate) for _ in range(MAX_VISITS + 1)]
    assert len(set(cookies)) == len(cookies)
    alive = [gate.find(build_scope(cookie)) is not None for cookie in cookies]
    assert alive == [False] + [True] * MAX_VISITS


def test_two_servers_of_one_host_do_not_share_a_cookie() -> None:
    first, second = ConsoleGate(KEY), ConsoleGate(KEY)
    cookies = f"{sign_in(first)}; {sign_in(second)}"
    for gate in (first, second):
        assert gate.find(build_scope(cookies)) is not None
    assert second.find(build_scope(sign_in(first))) is None


def test_nothing_that_the_gate_keeps_shows_a_token() -> None:
    gate = ConsoleGate(KEY)
    cookie = sign_in(gate)
    visit = gate.find(build_scope(cookie))
    assert visit is not None
    kept = f"{vars(gate)} {visit}"
    assert cookie.partition("=")[2] not in kept
    assert visit.form_token not in kept
