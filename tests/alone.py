"""`python tests/alone.py EXTRA`: what one extra promises works when it alone is installed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.testing import FakeSessionPool

FAKE = Execution(stdout="42")


async def local() -> str:
    async with CodeInterpreter.local() as interpreter:
        return (await interpreter.run_code("6 * 7")).text


async def serve() -> str:
    from cci_plugins.server import create_app

    paths = {
        getattr(route, "path", "") for route in create_app(FakeSessionPool(), api_key="k").routes
    }
    return "42" if "/mcp" in paths else str(paths)


async def cli() -> str:
    command = [sys.executable, "-m", "cci_plugins", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221 - nothing else runs
    return "42" if "serve" in text else text


async def azure() -> str:
    from azure.identity import DefaultAzureCredential

    from cci_plugins.azure.credentials import create_default_credential
    from cci_plugins.azure.options import Azure
    from cci_plugins.azure.resource_manager import ArmClient

    async with ArmClient(Azure(credential="token")) as arm:  # reads a pool's endpoint and key
        assert (await arm.credential.get_token("scope")).token == "token"
    return (
        "42" if isinstance(create_default_credential(), DefaultAzureCredential) else "no credential"
    )


async def provision() -> str:
    from cci_plugins.provisioning import Azure, Options
    from cci_plugins.provisioning.client import ProvisioningClient

    options = Options(subscription="0" * 8 + "-0000-0000-0000-" + "0" * 12, resource_group="g")
    async with ProvisioningClient(Azure(credential="token"), options.subscription) as arm:
        return "42" if (await arm.credential.get_token("scope")).token == "token" else "no token"


async def agent_framework() -> str:
    from cci_plugins.agent_framework import code_interpreter_tool

    async with CodeInterpreter(FakeSessionPool(FAKE)) as interpreter:
        (content,) = await code_interpreter_tool(interpreter).invoke(arguments={"code": "1"})
        return str(content.text)


async def openai_agents() -> str:
    from agents.tool_context import ToolContext

    from cci_plugins.openai_agents import code_interpreter_tool

    context = ToolContext(None, tool_name="execute_code", tool_call_id="1", tool_arguments="{}")
    async with CodeInterpreter(FakeSessionPool(FAKE)) as interpreter:
        tool = code_interpreter_tool(interpreter)
        return str(await tool.on_invoke_tool(context, '{"code": "1"}'))


async def foundry() -> str:
    from cci_plugins.foundry import Project, code_interpreter_tool

    project = Project("https://account.services.ai.azure.com/api/projects/project")
    async with await project.client(), project.management("0"):
        tool = code_interpreter_tool("connection")
        return "42" if "launchShell" in (tool.allowed_tools or []) else str(tool)


async def langchain() -> str:
    from cci_plugins.langchain import CodeInterpreterTool

    async with CodeInterpreter(FakeSessionPool(FAKE)) as interpreter:
        return str(await CodeInterpreterTool(interpreter=interpreter).ainvoke({"code": "1"}))


async def deepagents() -> str:
    from cci_plugins.deepagents import CodeInterpreterSandbox

    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        answered = await CodeInterpreterSandbox(interpreter).aexecute("echo 42")
        return "42" if "did not report" in answered.output else answered.output


async def semantic_kernel() -> str:
    from cci_plugins.semantic_kernel import CodeInterpreterPlugin

    async with CodeInterpreter(FakeSessionPool(FAKE)) as interpreter:
        return str(await CodeInterpreterPlugin(interpreter).execute_code("1", session_id="a"))


EXTRAS = {
    "local": local,
    "serve": serve,
    "cli": cli,
    "azure": azure,
    "provision": provision,
    "agent-framework": agent_framework,
    "deepagents": deepagents,
    "foundry": foundry,
    "langchain": langchain,
    "openai-agents": openai_agents,
    "semantic-kernel": semantic_kernel,
}

if __name__ == "__main__":
    said = asyncio.run(EXTRAS[sys.argv[1]]())
    sys.stdout.write(f"{sys.argv[1]} alone: {said}\n")
    sys.exit(said != "42")
