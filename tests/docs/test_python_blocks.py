"""Every Python block of the documentation runs and prints the lines after its `# ->`."""

from __future__ import annotations

import importlib
import inspect
import re
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import AsyncIterator, Iterator
from textwrap import dedent
from typing import Any

import anyio.to_thread
import pytest

import cci_plugins
from cci_plugins import CodeInterpreter
from cci_plugins.testing import Script, ScriptedModel, Turn, session_pools

from .blocks import ROOT, Block, first_of_each_page

_FENCE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def scripted_model() -> Any:
    """Return a chat model that calls the tool with `6 * 7` once, and answers with the result."""
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    calls = {
        "execute": {"name": "execute", "args": {"command": "echo $((6 * 7))"}},
        "execute_code": {"name": "execute_code", "args": {"code": "6 * 7"}},
    }

    class Scripted(BaseChatModel):
        call: Any = None

        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Any, **_: Any) -> Any:
            names = [getattr(tool, "name", None) for tool in tools]
            assert names == ["execute_code"] or "execute" in names
            self.call = calls["execute" if "execute" in names else "execute_code"]
            return self

        def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
            if isinstance(messages[-1], ToolMessage):
                message = AIMessage(f"It is {messages[-1].text.splitlines()[0]}.")
            else:
                message = AIMessage("", tool_calls=[{**self.call, "id": "1"}])
            return ChatResult(generations=[ChatGeneration(message=message)])

    return Scripted()


@pytest.fixture
def served_model() -> Iterator[ScriptedModel]:
    """Serve such a model over HTTP, for frameworks that have their own client."""
    turn = Turn("6 * 7", "6 * 7", r"(?P<n>\d+)", "It is {n}.")
    with ScriptedModel(Script((turn,))) as model:
        yield model


def docstring_examples() -> list[Any]:
    """Return the examples of all docstrings, each with its module's name."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for number, match in enumerate(_FENCE.finditer(path.read_text(encoding="utf-8")), 1):
            found.append(pytest.param(module, dedent(match[2]), id=f"{module}-{number}"))
    return found


def expected_output(source: str) -> list[str]:
    """Return the lines that a block should print, each after `# ->`."""
    return re.findall(r"^ *# -> ?(.*)$", source, re.MULTILINE)


@pytest.fixture(scope="module")
def storage_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return variables that name a real Azurite."""
    for module in ("trustme", "azure.storage.blob"):
        pytest.importorskip(module)
    from tests.integration._azurite import CONTAINER, KEY, running_azurite

    with running_azurite(tmp_path_factory.mktemp("azurite")) as azurite:
        yield {
            "AZURE_STORAGE_ACCOUNT": azurite.url,
            "AZURE_STORAGE_CONTAINER": CONTAINER,
            "AZURE_STORAGE_KEY": KEY,
            "CCI_STORAGE_CA_FILE": str(azurite.ca),
        }


@pytest.fixture(autouse=True)
def _check_less_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the examples that check a pool. `tests/contract` runs all of the contract."""
    monkeypatch.setattr(session_pools, "_CHECKS", session_pools._CHECKS[:2])


@pytest.mark.parametrize(
    "block", first_of_each_page("python", "README.md", "docs/index.md", "docs/get-started.md")
)
def test_a_block_prints_its_expected_output(
    block: Block,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "AZURE_STORAGE_ACCOUNT" in block.text:
        for name, value in request.getfixturevalue("storage_settings").items():
            monkeypatch.setenv(name, value)
    if "deepagents" in block.text:
        pytest.importorskip("deepagents")
    if "AzureChatOpenAI" in block.text or "AzureOpenAI" in block.text:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://resource.openai.azure.com")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "none-needed")
        monkeypatch.setenv("OPENAI_API_VERSION", "2025-04-01-preview")
    if "init_chat_model" in block.text:
        chat_models = pytest.importorskip("langchain.chat_models")
        monkeypatch.setattr(chat_models, "init_chat_model", lambda _: scripted_model())
    has_client = "client" in block.text.lower() or "OpenAIChatCompletion" in block.text
    if "openai" in block.text.replace("_", "") and has_client:
        served = request.getfixturevalue("served_model")
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == expected_output(block.text)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def interpreter() -> AsyncIterator[CodeInterpreter]:
    """What the examples of docstrings share, with its sessions."""
    async with CodeInterpreter.local() as opened:
        yield opened


@pytest.mark.anyio
@pytest.mark.parametrize(("module", "source"), docstring_examples())
async def test_an_example_in_a_docstring_runs(
    module: str, source: str, interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
    if "deepagents" in module:
        pytest.importorskip("deepagents")
    names = await anyio.to_thread.run_sync(names_for, module, source)
    names["interpreter"] = interpreter
    code = compile(source, "example", "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


def names_for(module: str, source: str) -> dict[str, Any]:
    """Return the names that an example may use: its module, the package and test objects."""
    names = {name: getattr(cci_plugins, name) for name in cci_plugins.__all__}
    names |= vars(importlib.import_module(module))
    if "model" in source:
        names["model"] = scripted_model()
    if "client" in source:
        openai = pytest.importorskip("agent_framework.openai")
        names["client"] = openai.OpenAIChatClient(model="scripted", api_key="none-needed")
    if "kernel." in source:
        names["kernel"] = pytest.importorskip("semantic_kernel").Kernel()
    return names
