"""The storage of saved sessions: created with its rule and role, and not removed by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cci_plugins.errors import FileTransferError
from cci_plugins.provisioning import checkpoints, down, plan

from ._provision import Place, deploy, open_place, options

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ACCOUNT = "microsoft.storage/storageaccounts/ccistabc123"


def find(place: Place, part: str) -> dict[str, Any]:
    return next(value for key, value in place.cloud.resources.items() if key.endswith(part))


async def test_saved_sessions_have_their_own_storage_which_down_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = options(suffix="abc123", checkpoint_days=90)
    with open_place(tmp_path, monkeypatch) as place:
        env_file = tmp_path / "env"
        await deploy(place, wanted, env_file=env_file)
        text = env_file.read_text()
        assert "AZURE_STORAGE_CHECKPOINT_CONTAINER=cci-checkpoints" in text
        assert "AZURE_STORAGE_CHECKPOINT_DAYS=90" in text
        rules = find(place, "managementpolicies/default")["properties"]["policy"]["rules"]
        assert [rule["definition"]["filters"]["prefixMatch"] for rule in rules] == [
            ["cci-files/"],
            ["cci-checkpoints/"],
        ]
        roles = [key for key in place.cloud.resources if "roleassignments" in key]
        assert any("containers/cci-checkpoints" in key for key in roles)
        # what is left out is kept
        later = await plan(options(suffix="abc123"), azure=place.azure).finish()
        assert [one.resource.kind for one in later.resources if one.changes] == []

        found = find(place, ACCOUNT)
        found["properties"]["primaryEndpoints"] = {"blob": "https://ccistabc123.example/"}
        asked: list[str] = []

        async def holds_some(endpoint: str, _: object) -> bool:
            asked.append(endpoint)
            return False

        async def is_unreachable(endpoint: str, _: object) -> bool:
            raise FileTransferError("no way")

        for look in (holds_some, is_unreachable):
            monkeypatch.setattr(checkpoints, "is_empty", look)
            run = down(options(suffix="abc123"), azure=place.azure, env_file=env_file)
            notes = [progress.message async for progress in run]
            assert any(key.endswith(ACCOUNT) for key in place.cloud.resources)
            assert [one for one in run.result.left if "ccistabc123" in one]
            assert any("saved sessions; --remove-checkpoints removes it" in one for one in notes)
            assert "AZURE_STORAGE_ACCOUNT=ccistabc123" in env_file.read_text()
            assert any("containers/cci-checkpoints" in key for key in place.cloud.resources)
        assert asked == ["https://ccistabc123.example/"]
        run = down(
            options(suffix="abc123"),
            azure=place.azure,
            env_file=env_file,
            remove_checkpoints=True,
        )
        await run.finish()
        assert not [key for key in place.cloud.resources if "ccistabc123" in key]
        assert "AZURE_STORAGE" not in env_file.read_text()
