"""`make demo`: a LangGraph and a Semantic Kernel agent that analyse real data in a sandbox."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
import time
from pathlib import Path
from typing import ClassVar

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.contents import ChatMessageContent, FunctionCallContent, FunctionResultContent

from cci_plugins import CodeInterpreter, Execution, Session
from cci_plugins.core.html_pages.runs import view_execution
from cci_plugins.core.html_pages.story import Step, build_story
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from samples import penguins
from samples.models import open_langchain_model, open_semantic_kernel_service, run_sample

DATA = Path(__file__).with_name("data") / "penguins.csv"
OUTPUT = Path("demo-output")
INSTRUCTIONS = (
    "You are a careful analyst. penguins.csv is in the working directory. Compute every number "
    "with the tool; variables of earlier calls are still there."
)


class Report:
    """Prints the progress of one agent, and keeps it for the page.

    It saves the charts and the notebook of its session, too.
    """

    numbers = itertools.count(1)
    chapters: ClassVar[dict[str, list[Step]]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.charts = 0
        self.good = True
        self.computed: list[float] = []
        self.steps = self.chapters.setdefault(f"{name} agent", [])
        self.code = ""

    def show(self, label: str, text: str) -> None:
        print(f"\n{label}\n{textwrap.indent(text.strip(), '    ')}", flush=True)

    def show_question(self, text: str) -> None:
        self.show("question", text)
        self.steps.append(("question", text))
        self.computed = []

    def show_code(self, code: str) -> None:
        self.show("the model asks to run", code)
        self.code = code

    def show_result(self, text: str, execution: Execution) -> None:
        where = ", ".join(filter(None, (execution.isolation, execution.state)))
        self.show(f"result ({where})", text)
        self.steps.append(view_execution(next(self.numbers), self.code, execution))
        if execution.error is None:
            self.computed += find_numbers(text)
        for result in execution.results:
            if result.png is not None:
                self.charts += 1
                path = OUTPUT / f"{self.name}-chart-{self.charts}.png"
                path.write_bytes(result.png)
                print(f"\nsaved the chart: {path}")

    def show_answer(self, text: str) -> None:
        """Print an answer. It is good if it quotes a number that the session computed for it."""
        self.show("final answer", text)
        self.steps.append(("final answer", text))
        quoted = find_numbers(text)
        self.good &= any(math.isclose(a, b, rel_tol=0.005) for a in quoted for b in self.computed)

    def finish(self, session: Session) -> bool:
        path = OUTPUT / f"{self.name}.ipynb"
        path.write_text(session.notebook(), encoding="utf-8")
        print(f"\nsaved the session as a notebook: {path}")
        return self.good and self.charts > 0


def find_numbers(text: str) -> list[float]:
    return [float(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def save_page(pool: str) -> Path:
    """Save what the agents did as a page, which has no scripts and needs no server."""
    path = OUTPUT / "index.html"
    path.write_text(build_story("What the agents did", pool, Report.chapters), encoding="utf-8")
    return path


def print_headline(text: str) -> None:
    print(f"\n{'=' * 88}\n{text}\n{'=' * 88}", flush=True)


async def langgraph_agent(interpreter: CodeInterpreter, chat: BaseChatModel) -> bool:
    """Ask two questions in one conversation, which `thread_id` names."""
    print_headline("LangGraph agent with CodeInterpreterTool")
    report, session = Report("langgraph"), interpreter.session("langgraph-demo")
    await session.files.upload(DATA)
    agent = create_agent(
        chat,
        tools=[CodeInterpreterTool(interpreter=interpreter)],
        system_prompt=INSTRUCTIONS,
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": session.key}}
    for turn in (penguins.HEAVIEST, penguins.DIFFERENCE):
        report.show_question(turn.question)
        question = {"messages": [("user", turn.question)]}
        async for update in agent.astream(question, config, stream_mode="updates"):
            for node in update.values():
                for message in node["messages"]:
                    if isinstance(message, ToolMessage):
                        report.show_result(message.text, message.artifact)
                    elif isinstance(message, AIMessage) and message.tool_calls:
                        report.show_code(message.tool_calls[0]["args"]["code"])
                    elif isinstance(message, AIMessage):
                        report.show_answer(message.text)
    return report.finish(session)


async def semantic_kernel_agent(
    interpreter: CodeInterpreter, service: ChatCompletionClientBase
) -> bool:
    """Ask two questions in one conversation, which `use_session` names."""
    print_headline("Semantic Kernel agent with CodeInterpreterPlugin")
    report, session = Report("semantic-kernel"), interpreter.session("semantic-kernel-demo")
    await session.files.upload(DATA)
    agent = ChatCompletionAgent(
        service=service,
        name="analyst",
        instructions=INSTRUCTIONS,
        plugins=[CodeInterpreterPlugin(interpreter)],
    )

    async def watch(message: ChatMessageContent) -> None:
        for item in message.items:
            if isinstance(item, FunctionCallContent):
                report.show_code(item.to_kernel_arguments()["code"])
            elif isinstance(item, FunctionResultContent):
                report.show_result(str(item.result), item.result.execution)

    thread = ChatHistoryAgentThread(thread_id=session.key)
    with interpreter.use_session(session.key):
        for turn in (penguins.CORRELATION, penguins.PREDICTION):
            report.show_question(turn.question)
            async for response in agent.invoke(
                turn.question, thread=thread, on_intermediate_message=watch
            ):
                report.show_answer(str(response))
    return report.finish(session)


async def main() -> int:
    started = time.monotonic()
    async with CodeInterpreter.from_env() as interpreter:
        pool = await interpreter.describe()
        print("pool: ", pool)
        async with open_langchain_model() as chat, open_semantic_kernel_service() as service:
            good = await langgraph_agent(interpreter, chat)
            good = await semantic_kernel_agent(interpreter, service) and good
    page = save_page(pool)
    outcome = "done" if good else "FAILED: an answer quotes no computed number, or no chart came"
    seconds = time.monotonic() - started
    print_headline(f"{outcome}, in {seconds:.1f} s\nwhat they did, as a page: {page}")
    return 0 if good else 1


if __name__ == "__main__":
    OUTPUT.mkdir(exist_ok=True)
    run_sample(main, penguins.SCRIPT)
