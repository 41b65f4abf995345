"""Answers of Resource Manager are bounded in bytes and pages, and odd ones raise our errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from cci_plugins.azure import resource_manager
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

pytestmark = pytest.mark.anyio


class Answer:
    """Answer of the SDK, whose body is read when asked for."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.headers, self.body, self.content = 200, dict[str, str](), body, b""
        self.taken, self.is_closed = 0, False

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), 1000):
            self.taken += 1000
            yield self.body[start : start + 1000]

    async def read(self) -> bytes:
        self.content = b"".join([chunk async for chunk in self.iter_bytes()])
        return self.content

    def text(self) -> str:
        return self.content.decode()

    async def close(self) -> None:
        self.is_closed = True


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
    monkeypatch.setattr(resource_manager, "MAX_PAGES", 5)
    arm, answers = build_arm({"value": [{"a": 1}], "nextLink": "https://management.azure.com/x"})
    with pytest.raises(ProvisioningError, match="does not end after 5 pages"):
        await arm.list("/subscriptions", "2022-12-01", step="list")
    assert len(answers) == 5


async def test_an_answer_is_stopped_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_manager, "MAX_BYTES", 10_000)
    arm, answers = build_arm({"value": ["x" * 1_000_000]})
    with pytest.raises(ProvisioningError, match="larger than 10,000 bytes"):
        await arm.get("/subscriptions/s", "2022-12-01", step="get")
    assert answers[0].taken < 20_000
    assert answers[0].is_closed


@pytest.mark.parametrize("odd", [7, "text", None, {"a": 1}, [None, 7]])
async def test_a_malformed_list_is_empty(odd: object) -> None:
    arm, _ = build_arm({"value": odd})
    assert await arm.list("/subscriptions", "2022-12-01", step="list") == []


@pytest.mark.parametrize("link", ["http://[", 7, "//", ["a"]])
async def test_a_malformed_link_is_an_error(link: object) -> None:
    arm, _ = build_arm({"value": [], "nextLink": link})
    with pytest.raises(ProvisioningError, match="another host"):
        await arm.list("/subscriptions", "2022-12-01", step="list")
