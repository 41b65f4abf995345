"""`cci provision` with a Foundry project, as a command at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from cci_plugins.provisioning import Azure, up

from ._cloud import running
from ._cloud.values import ARM_TOKEN, SECRETS
from ._provision import options
from .test_cli_provision import QUICK, WHERE, Command, at_a_terminal

pytestmark = pytest.mark.anyio


@pytest.fixture
def cci(tmp_path: Path) -> Iterator[Command]:
    with running(tmp_path) as cloud:
        cloud.cloud.everything_registered()
        yield Command(cloud, tmp_path)
        assert cloud.cloud.wrong == []


@pytest.fixture
async def with_agents(cci: Command) -> Command:
    """Return the command, in a deployment whose project has an agent."""
    azure = Azure(
        credential=ARM_TOKEN,
        endpoint=cci.environment["CCI_ARM_ENDPOINT"],
        polling=timedelta(milliseconds=5),
        ca=Path(cci.environment["SSL_CERT_FILE"]),
    )
    await up(options(foundry=True), azure=azure, try_out=False).finish()
    cci.cloud.foundry.agents = ["analyst"]
    return cci


async def test_a_project_with_agents_is_asked_about_by_itself(with_agents: Command) -> None:
    cci = with_agents
    code, out, err = await cci("up", *WHERE, "--plan", "--json")
    assert code == 0, err
    kinds = [one["kind"] for one in json.loads(out)["resources"]]
    assert "Foundry project" in kinds
    code, out, err = await cci("show", *WHERE, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["deployment"]["foundry"]["model"] == "gpt-5.6-luna"
    code, _, err = await cci("down", *QUICK)
    assert code == 6
    assert "--remove-agents" in err
    kept = set(cci.cloud.resources)
    code, err = await down(cci, b"n\n")
    assert "it has an agent: analyst. Remove it?" in " ".join(err.split())
    assert code == 130
    assert set(cci.cloud.resources) == kept
    assert [secret for secret in SECRETS if secret in "".join(cci.seen) + err] == []


@pytest.mark.full
async def test_a_project_with_agents_is_removed_after_the_question(with_agents: Command) -> None:
    cci = with_agents
    code, err = await down(cci, b"y\n")
    assert code == 0, err
    assert cci.cloud.resources == {}
    assert [secret for secret in SECRETS if secret in "".join(cci.seen) + err] == []


async def down(cci: Command, answer: bytes) -> tuple[int, str]:
    run = partial(at_a_terminal, cci, "down", *QUICK, answer=answer)
    return await anyio.to_thread.run_sync(run)
