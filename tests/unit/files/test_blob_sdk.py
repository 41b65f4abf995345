"""Blob Storage can be configured without its SDK. The first staged file needs it."""

from __future__ import annotations

import pytest

from cci_plugins.common.settings import Settings
from cci_plugins.core.interpreter import build_file_options
from cci_plugins.errors import ConfigurationError
from cci_plugins.files import blob

pytestmark = pytest.mark.anyio


async def test_the_sdk_is_needed_by_the_first_staged_file_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blob, "is_sdk_installed", lambda: False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    monkeypatch.setenv("AZURE_STORAGE_CONTAINER", "files")
    storage = build_file_options(Settings.read()).storage
    assert storage is not None
    with pytest.raises(ConfigurationError, match="needs azure-storage-blob") as caught:
        async with storage.staged(1):
            pass
    assert "cci-plugins[azure]" in str(caught.value.hint)
