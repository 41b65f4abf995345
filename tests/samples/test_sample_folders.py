"""The samples in folders run offline, by the command in their docstring."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import nbformat
import pytest
import uvicorn
from nbclient import NotebookClient
from samples import models
from tests.samples.running import ROOT, run, run_here

from cci_plugins.testing import Script, Turn

pytestmark = pytest.mark.slow


@pytest.mark.quick("langchain")
@pytest.mark.parametrize(
    "name", ["langchain", "semantic_kernel", "agent_framework", "openai_agents"]
)
def test_the_analysis_shows_the_numbers_and_saves_the_files(name: str, tmp_path: Path) -> None:
    done = run_here("-m", f"samples.analysis.with_{name}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "answer: Gentoo are the heaviest: 5076.0 g." in done.stdout
    out = tmp_path / "out" / name.replace("_", "-")
    assert "Gentoo,5076.0" in (out / "summary.csv").read_text()
    assert (out / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.quick("edits")
@pytest.mark.parametrize(
    ("given", "expected"),
    [("a\n", str(2**100)), ("e\nprint(3**5)\n", "243"), ("r\n", "could not find")],
    ids=["approves", "edits", "rejects"],
)
def test_the_graph_approves_edits_and_rejects(given: str, expected: str, tmp_path: Path) -> None:
    done = run_here("-m", "samples.langgraph_approval", cwd=tmp_path, given=given)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout.split("answer:")[1]


@pytest.mark.full
def test_code_answers_in_two_turns_what_the_model_answers_in_dozens(tmp_path: Path) -> None:
    done = run("-m", "samples.host_tools", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    names = ["LangGraph", "Semantic Kernel", "Agent Framework", "OpenAI Agents"]
    assert [row[0] for row in rows] == [name for name in names for _ in range(2)]
    assert {row[4] for row in rows} == {"customer 07 spent 568.52 EUR in 200 orders of all"}
    for by_model, by_code in zip(rows[::2], rows[1::2], strict=True):
        assert (by_model[2], by_code[2]) == ("25", "2")
        read = [int(row[3].replace(",", "")) for row in (by_model, by_code)]
        assert read[0] > 50 * read[1]


@pytest.mark.full
def test_the_group_shares_one_session(tmp_path: Path) -> None:
    done = run_here("-m", "samples.semantic_kernel_group", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "344 rows" in done.stdout
    assert "200.9 mm" in done.stdout


def test_the_notebook_runs_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}")
    folder = ROOT / "samples" / "notebook"
    notebook = nbformat.read(folder / "penguins.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=60, resources=resources).execute()
    assert "5076.0" in str(notebook.cells)
    assert "image/png" in str(notebook.cells)


@pytest.mark.anyio
@pytest.mark.quick("6")
@pytest.mark.parametrize("users", [6, 20])
async def test_many_users_chat_at_once_and_no_state_crosses(
    users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samples.fastapi_chat.app import LARGEST, app

    for name in ("OPENAI_API_KEY", *models.AZURE):
        monkeypatch.delenv(name, raising=False)
    code = "x = open('mine.txt').read()\nopen('back.txt', 'w').write(x)\nprint('mine', x)"
    first = Turn("mine?", code, r"mine (?P<x>\d+)", "It is {x}.")
    second = Turn("kept?", "print('kept', x)", r"kept (?P<y>\d+)", "It was {y}.")
    script = Script((first, second))
    with models.serve_model(script), socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=100, trust_env=False) as client:

            async def user(number: int) -> str:
                token = (await client.post("/conversations")).json()["token"]
                mine = {"Authorization": f"Bearer {token}"}
                secret = str(1000 + number)
                sent = await client.put("/files/mine.txt", content=secret, headers=mine)
                assert sent.status_code == 201, sent.text
                answer = await client.post("/chat", json={"text": "mine?"}, headers=mine)
                assert f'event: answer\ndata: "It is {secret}."' in answer.text
                assert "event: output" in answer.text
                back = await client.get("/files/back.txt", headers=mine)
                assert back.text == secret
                again = await client.post("/chat", json={"text": "kept?"}, headers=mine)
                assert f"It was {secret}." in again.text
                return token

            tokens = await asyncio.gather(*map(user, range(users)))
            forged = f"{tokens[0].split('.')[0]}.{tokens[1].split('.')[1]}"
            for header in ({}, {"Authorization": f"Bearer {forged}"}):
                assert (await client.get("/files/back.txt", headers=header)).status_code == 401
            mine = {"Authorization": f"Bearer {tokens[0]}"}
            assert (await client.get("/files/none", headers=mine)).status_code == 404
            large = await client.put("/files/l", content=bytes(LARGEST + 1), headers=mine)
            assert large.status_code == 413
            unsafe = await client.put("/files/a%00b", content=b"x", headers=mine)
            assert unsafe.status_code == 400
        server.should_exit = True
        await serving
