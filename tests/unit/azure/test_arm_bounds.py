"""Lists of Resource Manager are bounded in pages, and odd ones raise our errors."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from cci_plugins.azure import transport
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

pytestmark = pytest.mark.anyio


class Answer:
    """Answer of the SDK, whose body is read when asked for."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.headers, self.body, self.content = 200, dict[str, str](), body, b""

    async def read(self) -> bytes:
        self.content = self.body
        return self.content

    def text(self) -> str:
        return self.content.decode()

    async def close(self) -> None:
        """Close nothing."""


def build_arm(*bodies: object) -> tuple[ArmClient, list[Answer]]:
    """Return a client whose SDK answers with these bodies, the last one again and again."""
    arm, answers = ArmClient(Azure(credential="token")), list[Answer]()

    async def send(_request: object, **options: Any) -> Any:
        assert options["stream"] is True
        body = bodies[min(len(answers), len(bodies) - 1)]
        answers.append(Answer(json.dumps(body).encode()))
        return SimpleNamespace(http_response=answers[-1])

    async def close() -> None:
        """Close nothing."""

    arm._client = SimpleNamespace(send_request=send, close=close)
    return arm, answers


async def test_a_list_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_PAGES", 5)
    arm, answers = build_arm({"value": [{"a": 1}], "nextLink": "https://management.azure.com/x"})
    with pytest.raises(ProvisioningError, match="does not end after 5 pages"):
        await arm.list("/subscriptions", "2022-12-01", step="list")
    assert len(answers) == 5


@pytest.mark.parametrize("odd", [7, "text", None, {"a": 1}, [None, 7]])
async def test_a_malformed_list_is_empty(odd: object) -> None:
    arm, _ = build_arm({"value": odd})
    assert await arm.list("/subscriptions", "2022-12-01", step="list") == []


@pytest.mark.parametrize("link", ["http://[", 7, "//", ["a"]])
async def test_a_malformed_link_is_an_error(link: object) -> None:
    arm, _ = build_arm({"value": [], "nextLink": link})
    with pytest.raises(ProvisioningError, match="another host"):
        await arm.list("/subscriptions", "2022-12-01", step="list")
