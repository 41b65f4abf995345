"""The embedded pool that settings describe."""

from __future__ import annotations

import pytest

from cci_plugins.common.settings import PRELOAD, Settings
from cci_plugins.core.interpreter import build_pool


@pytest.mark.parametrize(
    ("given", "preloaded"),
    [
        (None, PRELOAD),
        ("none", ()),
        ("polars", ("polars",)),
        ("polars, matplotlib.pyplot", ("polars", "matplotlib.pyplot")),
        ("nonesuch none", ("nonesuch", "none")),
    ],
)
def test_ready_sessions_import_the_modules_that_are_named(
    given: str | None, preloaded: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CCI_PRELOAD", raising=False)
    if given is not None:
        monkeypatch.setenv("CCI_PRELOAD", given)

    pool = build_pool(Settings.read())

    assert pool._preload == preloaded  # type: ignore[attr-defined]
