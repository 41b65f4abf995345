"""The same agent in four frameworks. With an interpreter, its code calls the tools."""

from __future__ import annotations

from agent_framework import Agent as FrameworkAgent
from agent_framework.openai import OpenAIChatCompletionClient
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
from semantic_kernel.functions import kernel_function

from cci_plugins import CodeInterpreter
from cci_plugins.agent_framework import CodeInterpreterProvider
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.openai_agents import code_interpreter_tool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from samples.host_tools.task import INSTRUCTIONS, QUESTION, TOOLS

MODEL = "scripted"
MAX_TURNS = 50


async def ask_langgraph(url: str, interpreter: CodeInterpreter | None) -> str:
    tools = [CodeInterpreterTool(interpreter=interpreter, tools=TOOLS)] if interpreter else TOOLS
    async with DefaultAsyncHttpxClient() as http:
        model = ChatOpenAI(model=MODEL, base_url=url, api_key="none", http_async_client=http)
        agent = create_agent(model, tools=list(tools), system_prompt=INSTRUCTIONS)
        config = {"configurable": {"thread_id": "langgraph"}, "recursion_limit": 2 * MAX_TURNS}
        state = await agent.ainvoke({"messages": [("user", QUESTION)]}, config)
    return str(state["messages"][-1].text)


async def ask_semantic_kernel(url: str, interpreter: CodeInterpreter | None) -> str:
    kernel, functions = Kernel(), [kernel_function(one, description=one.__doc__) for one in TOOLS]
    if interpreter:
        plugin = CodeInterpreterPlugin(interpreter, functions=functions, session_key="kernel")
        kernel.add_plugin(plugin, "code_interpreter")
    else:
        kernel.add_functions("shop", functions)
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        agent = ChatCompletionAgent(
            service=OpenAIChatCompletion(ai_model_id=MODEL, async_client=client),
            kernel=kernel,
            instructions=INSTRUCTIONS,
            function_choice_behavior=FunctionChoiceBehavior.Auto(
                maximum_auto_invoke_attempts=MAX_TURNS
            ),
        )
        return str(await agent.get_response(QUESTION))


async def ask_agent_framework(url: str, interpreter: CodeInterpreter | None) -> str:
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        chat = OpenAIChatCompletionClient(model=MODEL, async_client=client)
        providers = [CodeInterpreterProvider(interpreter, tools=TOOLS)] if interpreter else []
        agent = FrameworkAgent(
            chat,
            instructions=INSTRUCTIONS,
            tools=[] if interpreter else list(TOOLS),
            context_providers=providers,
        )
        reply = await agent.run(QUESTION, session=agent.create_session())
    return str(reply.text)


async def ask_openai_agents(url: str, interpreter: CodeInterpreter | None) -> str:
    functions = [function_tool(one) for one in TOOLS]
    tools = [code_interpreter_tool(interpreter, tools=functions)] if interpreter else functions
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        agent = Agent(
            "analyst",
            instructions=INSTRUCTIONS,
            model=OpenAIChatCompletionsModel(MODEL, client),
            tools=[*tools],
        )
        result = await Runner.run(
            agent,
            QUESTION,
            context={"session_id": "openai-agents"},
            max_turns=MAX_TURNS,
            run_config=RunConfig(tracing_disabled=True),
        )
    return str(result.final_output)


AGENTS = {
    "LangGraph": ask_langgraph,
    "Semantic Kernel": ask_semantic_kernel,
    "Agent Framework": ask_agent_framework,
    "OpenAI Agents": ask_openai_agents,
}
