"""Rates over a moving window of 60 seconds."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.server.rate import WINDOW_SECONDS, Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_refused_until_its_oldest_hit_is_over() -> None:
    clock = Clock()
    rate = Rate(2, clock=clock)
    assert rate.hit("a") is None
    clock.now += 10
    assert rate.hit("a") is None
    assert rate.hit("a") == 50
    assert rate.hit("b") is None
    clock.now += 49.5
    assert rate.hit("a") == 1
    clock.now += 0.5
    assert rate.hit("a") is None
    assert rate.hit("a") == 10


def test_refused_hits_do_not_prolong_the_wait() -> None:
    clock = Clock()
    rate = Rate(1, clock=clock)
    rate.hit("a")
    for _ in range(59):
        clock.now += 1
        assert rate.hit("a") is not None
    clock.now += 1
    assert rate.hit("a") is None


def test_keys_are_forgotten_when_their_last_hit_is_over() -> None:
    clock = Clock()
    rate = Rate(1, clock=clock)
    for number in range(1000):
        rate.hit(f"address {number}")
    assert len(rate) == 1000
    clock.now += WINDOW_SECONDS
    rate.hit("another")
    assert len(rate) == 1


HITS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 45)), max_size=40)


@given(st.integers(1, 4), HITS)
def test_no_window_of_a_minute_has_more_hits_than_allowed(
    most: int, hits: list[tuple[str, float]]
) -> None:
    clock = Clock()
    rate = Rate(most, clock=clock)
    admitted: dict[str, deque[float]] = {}
    for key, pause in hits:
        clock.now += pause
        recent = [at for at in admitted.get(key, ()) if at > clock.now - WINDOW_SECONDS]
        wait = rate.hit(key)
        assert (wait is None) == (len(recent) < most)
        if wait is None:
            admitted.setdefault(key, deque()).append(clock.now)
        else:
            assert 1 <= wait <= WINDOW_SECONDS
