"""What the cases of the troubleshooting page share: a registry, and the records of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cci_plugins.sync import CodeInterpreter

Case = Callable[[CodeInterpreter, pytest.MonkeyPatch], object]
CASES: dict[str, Case] = {}


def happens(text: str) -> Callable[[Case], Case]:
    """Register what causes the error of a heading."""

    def register(case: Case) -> Case:
        CASES[text] = case
        return case

    return register


@contextmanager
def record_log() -> Iterator[list[logging.LogRecord]]:
    """Collect what the package logs."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("cci_plugins")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
