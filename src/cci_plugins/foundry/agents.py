"""Agents of a Foundry project that run Python in the session pool: create, run, delete."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import anyio
from azure.ai.projects.models import PromptAgentDefinition, Tool
from azure.core.exceptions import ResourceNotFoundError
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from cci_plugins.common.approval import ApprovalRequest, Approver, Decision
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.http_bodies import ACCEPT_ENCODING, RUN_BYTES
from cci_plugins.common.log import logger
from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError, FoundryError
from cci_plugins.mcp_client.bodies import bound_response

from .environments import Environment
from .failures import (
    USER,
    build_response_error,
    build_run_timeout_error,
    translate_management_errors,
    translate_run_errors,
)
from .project import Project
from .replies import (
    Reply,
    describe_call,
    list_approval_requests,
    parse_arguments,
    read_reply,
)
from .tool_names import get_instructions, runs_no_code
from .toolboxes import Toolbox, add_toolbox_label, build_toolbox_tool, is_toolbox_tool
from .tools import code_interpreter_tool

ROUNDS = 25
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Agent:
    """One version of an agent.

    Attributes:
        name: Its name in the project.
        version: The version.
        project: Its project.
    """

    name: str
    version: str
    project: Project = field(repr=False)


async def create_agent(
    name: str,
    *,
    model: str | None = None,
    instructions: str = "",
    tool: Tool | None = None,
    toolbox: Toolbox | str | None = None,
    require_approval: Literal["always", "never"] = "never",
    check_runs: bool = False,
    more_tools: Sequence[Tool] = (),
    project: Project | None = None,
) -> Agent:
    """Create an agent that can run Python, or a new version of one.

    Args:
        name: Its name: letters, digits and hyphens.
        model: Name of the model's deployment. FOUNDRY_MODEL_DEPLOYMENT_NAME when None.
        instructions: Its task. `INSTRUCTIONS`, which explain how to run Python, are added.
        tool: The tool that runs Python. `code_interpreter_tool()` when None.
        toolbox: A toolbox with the pool's tools instead, by the result of `connect(toolbox=...)`
            or its name. The agent's identity needs the role Foundry User on the project.
        require_approval: `always` asks before code runs. It counts only without `tool`.
        check_runs: Allow `check_run`, and explain it. A `tool` or `toolbox` must allow it itself.
        more_tools: Further tools.
        project: The project. `Project.from_env()` when None.

    Returns:
        The new version.

    Raises:
        ConfigurationError: The model, the connection or the project is not named, or both a tool
            and a toolbox are passed.
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.

    Example:
        ```python
        from cci_plugins.foundry import create_agent, run


        async def ask(question: str) -> str:
            agent = await create_agent("analyst", instructions="Answer with one number.")
            return (await run(agent, question)).text
        ```
    """
    model = _choose_model(model)
    tool = _choose_tool(tool, toolbox, require_approval, check_runs=check_runs)
    project = project or Project.from_env()
    if toolbox is not None:
        tool = await build_toolbox_tool(project, toolbox, require_approval, check_runs=check_runs)
    definition = PromptAgentDefinition(
        model=model,
        instructions=_build_instructions(instructions, tool, check_runs=check_runs),
        tools=[*(() if tool is None else (tool,)), *more_tools],
    )
    with translate_management_errors(f"agent {name}", role=USER):
        async with await project.client() as client:
            created = await client.agents.create_version(agent_name=name, definition=definition)
    return Agent(created.name, created.version, project)


def _build_instructions(task: str, tool: Tool | None, *, check_runs: bool) -> str:
    """Return the task of an agent, and how to run Python."""
    ours = get_instructions(check_runs=check_runs)
    ours = add_toolbox_label(ours) if is_toolbox_tool(tool) else ours
    return "\n\n".join(text for text in (task.strip(), ours) if text)


def _choose_model(model: str | None) -> str:
    model = model or Settings.read(check=False).foundry_model
    if model is None:
        raise ConfigurationError(
            "FOUNDRY_MODEL_DEPLOYMENT_NAME is not set",
            hint="set it to the name of a model's deployment in the project",
        )
    return model


def _choose_tool(
    tool: Tool | None,
    toolbox: Toolbox | str | None,
    require_approval: Literal["always", "never"],
    *,
    check_runs: bool,
) -> Tool | None:
    """Return the tool that runs Python, or None where a toolbox has it."""
    if toolbox is None:
        if tool is not None:
            return tool
        return code_interpreter_tool(require_approval=require_approval, check_runs=check_runs)
    if tool is not None:
        raise ConfigurationError(
            "create_agent() got a tool and a toolbox", hint="pass one of the two"
        )
    return None


async def delete_agent(agent: Agent, *, all_versions: bool = False) -> bool:
    """Delete an agent's version, or the whole agent.

    Args:
        agent: The agent that `create_agent` returned.
        all_versions: Whether to delete every version.

    Returns:
        Whether it existed.

    Raises:
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    with translate_management_errors(f"agent {agent.name}", role=USER):
        async with await agent.project.client() as client:
            try:
                if all_versions:
                    await client.agents.delete(agent.name)
                else:
                    await client.agents.delete_version(agent.name, agent.version)
            except ResourceNotFoundError:
                return False
    return True


async def run(
    agent: Agent,
    prompt: str,
    *,
    approve: Approver | None = None,
    environment: Environment | None = None,
    previous: Reply | None = None,
    rounds: int = ROUNDS,
    timeout: Duration = TIMEOUT,
) -> Reply:
    """Send a question to an agent, and answer its requests for approval until it replies.

    No request is sent twice, because code may have run before a failure.

    Args:
        agent: The agent that `create_agent` returned.
        prompt: The question.
        approve: Approver of each run of code, where the tool requires approval. If its `Decision`
            edits the code, the model gets the edit as advice and asks again.
        environment: The environment for the agent's code. By default the agent launches one.
        previous: The reply that this question follows.
        rounds: Most requests for approval.
        timeout: Longest wait for each response, in seconds or as a `timedelta`.

    Returns:
        The agent's reply.

    Raises:
        ConfigurationError: The tool requires approval and there is no `approve`, or the agent
            does not exist.
        AuthenticationError: A role is missing.
        FoundryError: The agent failed, or did not answer.
    """
    seconds = to_timedelta(timeout, "timeout").total_seconds()
    async with AsyncExitStack() as stack:
        client: Any = await _open_openai_client(stack, agent.project)
        reference = {"name": agent.name, "version": agent.version, "type": "agent_reference"}
        next_input: Any = _build_input(prompt, environment)
        previous_id = None if previous is None else previous.id
        responses: list[Mapping[str, Any]] = []
        for _ in range(rounds + 1):
            with translate_run_errors(), _limit_answer(seconds):
                response = await client.responses.create(
                    input=next_input,
                    extra_body={"agent_reference": reference},
                    timeout=seconds,
                    **({} if previous_id is None else {"previous_response_id": previous_id}),
                )
            responses.append(response.to_dict(warnings=False))
            _raise_for_failure(responses[-1])
            requests = list_approval_requests(responses[-1])
            if not requests:
                return _read_reply(responses)
            next_input = [await _answer(request, approve) for request in requests]
            previous_id = response.id
    raise FoundryError(
        f"the agent asked for approval more than {rounds} times", hint="pass more rounds to run()"
    )


@contextmanager
def _limit_answer(seconds: float) -> Generator[None]:
    """Limit the time of a whole answer. The OpenAI client limits each wait for more of it."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise build_run_timeout_error()


def _read_reply(responses: Sequence[Mapping[str, Any]]) -> Reply:
    reply = read_reply(responses)
    if not reply.calls:
        logger.info("the agent answered without running code")
    return reply


async def _open_openai_client(stack: AsyncExitStack, project: Project) -> AsyncOpenAI:
    """Open the project's OpenAI client, without retries."""
    with translate_management_errors("Foundry project", role=USER):
        projects = await stack.enter_async_context(await project.client())
    options: dict[str, Any] = {} if (tls := project.tls()) is None else {"verify": tls}
    bound = partial(bound_response, limit=RUN_BYTES, sender="Foundry")
    http = DefaultAsyncHttpxClient(
        headers=ACCEPT_ENCODING,
        event_hooks={"response": [bound]},
        follow_redirects=False,  # the question belongs to the project's server only
        **options,
    )
    client = projects.get_openai_client(max_retries=0, http_client=http)
    stack.push_async_callback(_close, client)
    return client


async def _close(client: AsyncOpenAI) -> None:
    with anyio.CancelScope(shield=True):
        await client.close()


def _build_input(prompt: str, environment: Environment | None) -> str:
    if environment is None:
        return prompt
    return f"{prompt}\n\nUse environmentId {environment.id} for every call; do not launch another."


def _raise_for_failure(response: Mapping[str, Any]) -> None:
    error = response.get("error")
    if response.get("status") in {"failed", "cancelled"} or error:
        details = error if isinstance(error, Mapping) else {}
        message = details.get("message") or f"its response is {response.get('status')}"
        raise build_response_error({"code": details.get("code"), "message": message})


async def _answer(request: Mapping[str, Any], approve: Approver | None) -> dict[str, Any]:
    """Build the answer to one request for approval."""
    arguments = parse_arguments(request)
    decision = Decision("allow")
    if not runs_no_code(str(request.get("name") or "")):
        if approve is None:
            raise ConfigurationError(
                "the agent's tool requires approval, but run() has no approver; no code ran",
                hint="pass approve=... to run(), or require_approval='never' to the tool",
            )
        code = describe_call(str(request.get("name") or ""), arguments)
        question = ApprovalRequest(code, str(arguments.get("environmentId") or ""))
        decision = _convert_edit(await _ask(approve, question), code)
    answer: dict[str, Any] = {
        "type": "mcp_approval_response",
        "approval_request_id": request.get("id"),
        "approve": decision.verdict == "allow",
    }
    return answer if decision.reason is None else answer | {"reason": decision.reason}


async def _ask(approve: Approver, request: ApprovalRequest) -> Decision:
    """Ask the approver. An exception counts as a denial."""
    try:
        return await approve(request)
    except Exception:  # noqa: BLE001 - the host's own code
        logger.exception("the approver failed")
        return Decision("deny", reason="nobody could be asked")


def _convert_edit(decision: Decision, code: str) -> Decision:
    """Turn an edit of the code into a denial with advice, because Foundry cannot edit a call."""
    if decision.verdict == "allow" and decision.code not in (None, code):
        return Decision(
            "deny", reason=f"the user wants exactly this code instead:\n{decision.code}"
        )
    return decision
