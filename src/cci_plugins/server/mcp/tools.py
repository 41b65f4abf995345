"""The three tools of the platform's MCP server, over any session pool.

Names and arguments follow the tutorials (learn.microsoft.com, Container Apps sessions with MCP).
Calls may use the older names of `launchShell`. The list has each tool once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.core.redacted_output import transform_in_lane
from cci_plugins.core.rendering import clip
from cci_plugins.errors import CodeInterpreterError, SessionLostError
from cci_plugins.in_session.shell_expression import build_shell_code
from cci_plugins.mcp_client import executions, failures
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler, SessionPool, check_env_support
from cci_plugins.pools.run_exchange import HELD_KEY, RunQuery
from cci_plugins.pools.tool_host import ToolHost
from cci_plugins.redaction import redact
from cci_plugins.server.answers import (
    build_run_fields,
    find_images,
    get_main_value,
)
from cci_plugins.server.redacted_run import run_redacted
from cci_plugins.server.requests import (
    MAX_IDENTIFIER_LENGTH,
    MIN_IDENTIFIER_LENGTH,
    RequestModel,
    Text,
    describe_invalid,
)
from cci_plugins.server.rest.errors import SERVER_FAULT
from cci_plugins.server.runs import MAX_NAMES, RunKey, RunRegistry
from cci_plugins.tools.long_run_texts import CHECK_RUN, describe_wait
from cci_plugins.tools.options import check_wait_support

from .answers import ToolCallResult, build_json_result
from .environments import NOT_FOUND, EnvironmentIdError, Environments, OpenEnvironments
from .held_runs import HeldRequest, HeldRuns, parse_query
from .left_runs import BuildResult, CheckArguments, LeftRun, LeftRuns, create_name, is_name
from .session_tools import SessionTools

LAUNCH = "launchShell"
RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
ENVIRONMENT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": MIN_IDENTIFIER_LENGTH,
    "maxLength": MAX_IDENTIFIER_LENGTH,
    "description": "The environment: the id that an earlier answer gave.",
}
ALIASES = {"launchShellEnvironment": LAUNCH, "launchPythonEnvironment": LAUNCH}


class _RunArguments(RequestModel):
    """Arguments that both tools take. `Environments` checks the id."""

    environment_id: Any = None
    timeout_seconds: Annotated[float, Field(gt=0)] | None = None


class _PythonArguments(_RunArguments):
    """Arguments of `runPythonCodeInRemoteEnvironment`."""

    python_code: Text


class _ShellArguments(_RunArguments):
    """Arguments of `runShellCommandInRemoteEnvironment`."""

    shell_command: Text | None = None
    exec_command_and_args: list[Text] | None = None

    @model_validator(mode="after")
    def _check_one_command(self) -> Self:
        if (self.shell_command is not None) == bool(self.exec_command_and_args):
            raise ValueError(
                "Give either shellCommand, as text, or execCommandAndArgs, as a list of texts."
            )
        return self


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of a call that are not arguments.

    Attributes:
        instance: The instance of the session that the code needs, or None for any.
        on_output: Called with each chunk of output, where the pool streams.
        run: Name of the run, which starts once, or None.
        held: Query about a run that outlives the request, as it came, or None.
        env: Variables for the code, or None.
        has_content: Whether the client reads content, and not only the execution in `_meta`.
    """

    instance: str | None
    on_output: OutputHandler | None
    run: str | None = None
    held: object = None
    env: SessionEnvironment | None = None
    has_content: bool = True


_RunCode = Callable[..., Awaitable[Execution]]
_Tool = Callable[[Mapping[str, Any], CallOptions], Awaitable[ToolCallResult]]


class PlatformTools:
    """The platform's tools for a pool.

    Args:
        pool: Where code runs.
        limits: `execution_timeout` is the longest run, `background_timeout` the longest one that
            outlives its request. `output_characters` bounds each stream.
        environments: Issues and checks environment ids. None accepts any id.
        admit_run: Called with the session before each run. It raises to refuse the run.
        runs: The runs of the server. None for a server that holds none.
        wait: Longest time until a run is answered for, with `check_run` for longer ones. None
            waits for the end of each run. It does not apply to the cci-plugins client.
        env: Variables for the code in every session, or None.
    """

    def __init__(
        self,
        pool: SessionPool,
        limits: Limits,
        environments: Environments | None = None,
        *,
        admit_run: Callable[[str], Awaitable[None]] | None = None,
        runs: RunRegistry | None = None,
        wait: Duration | None = None,
        env: SessionEnvironment | None = None,
    ) -> None:
        self._pool = pool
        self._env = env
        self._with_own_env: OrderedDict[str, None] = OrderedDict()
        self._admit_run = admit_run
        self._environments = OpenEnvironments() if environments is None else environments
        self._limits = limits
        self._runs = RunRegistry() if runs is None else runs
        self._held_runs = HeldRuns(pool, self._runs)
        self._left_runs: LeftRuns | None = None
        self._tools: dict[str, _Tool] = {
            LAUNCH: self._launch,
            RUN_PYTHON: self._run_python,
            RUN_SHELL: self._run_shell,
            **SessionTools(pool, self._environments, admit_run).tools,
        }
        if wait is not None:
            longest = to_timedelta(wait, "wait")
            check_wait_support(longest, pool.capabilities)
            self._left_runs = LeftRuns(self._held_runs, longest, limits.output_characters)
            self._tools[CHECK_RUN] = self._check_run

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the form of `tools/list`."""
        limits = self._limits
        limit = limits.execution_timeout if self._left_runs is None else limits.background_timeout
        tools = _describe_tools(limit.total_seconds(), self._left_runs)
        if self._left_runs is not None:
            tools.append(self._left_runs.describe_tool(ENVIRONMENT_SCHEMA))
        if not self._environments.accepts_any_id:
            next(tool for tool in tools if tool["name"] == LAUNCH)["_meta"] = {
                executions.SIGNED_KEY: True
            }
        return tools

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool. Return None when no tool has this name.

        Args:
            name: The tool's name, or an older name of it.
            arguments: The call's arguments, not yet validated.
            meta: `_meta` of the request.
            on_output: Called with each chunk of output, where the pool streams.
        """
        tool = self._tools.get(ALIASES.get(name, name))
        if tool is None:
            return None
        try:
            instance, run = meta.get(executions.INSTANCE_KEY), meta.get(executions.RUN_KEY)
            options = CallOptions(
                instance if isinstance(instance, str) else None,
                on_output,
                run if isinstance(run, str) else None,
                meta.get(HELD_KEY),
                executions.load_env(meta.get(executions.ENV_KEY)),
                has_content=meta.get(executions.CONTENT_KEY) is not False,
            )
            return await tool(arguments, options)
        except ValidationError as error:
            return _build_failure("InvalidArguments", describe_invalid(error))
        except EnvironmentIdError as error:
            lost = SessionLostError(f"{error.code}: {error}", retryable=True)
            meta = {failures.META_KEY: failures.dump_error(lost)} if error.code == NOT_FOUND else {}
            return _build_failure(error.code, f"{error} Call {LAUNCH} for one.", meta)
        except CodeInterpreterError as error:
            dumped = failures.dump_error(error)
            return _build_failure(dumped["code"], redact(str(error)), {failures.META_KEY: dumped})
        except Exception:  # noqa: BLE001 - a fault of the server must not break the protocol
            logger.exception("a tool failed because of a fault in the server")
            return _build_failure("InternalServerError", SERVER_FAULT)

    async def _launch(self, *_: object) -> ToolCallResult:
        return build_json_result({"environmentId": self._environments.mint()})

    async def _run_python(
        self, arguments: Mapping[str, Any], options: CallOptions
    ) -> ToolCallResult:
        call = _PythonArguments.model_validate(arguments)
        if options.held is not None:
            return await self._answer_held(call, options)
        build = self._build_python_result if options.has_content else _build_execution_result
        return await self._answer(call, call.python_code, options, build)

    async def _answer_held(self, call: _PythonArguments, options: CallOptions) -> ToolCallResult:
        """Start a run that outlives the request, or answer for one."""
        query = parse_query(options.held)
        if query is None or options.run is None:
            return _build_failure("InvalidArguments", f"{HELD_KEY} is not a query about a run.")
        session_id = self._environments.resolve_session_id(call.environment_id)
        if query.starts and self._admit_run is not None:
            await self._admit_run(session_id)
        longest = self._limits.background_timeout
        if not query.is_background:
            longest = max(longest, self._limits.execution_timeout)
        timeout = _choose_timeout(call, self._limits.execution_timeout, longest)
        request = HeldRequest(
            session_id=session_id,
            name=options.run,
            query=query,
            code=call.python_code,
            timeout=timeout,
            instance=options.instance,
            value=options.held,
            env=self._get_env(session_id, options.env),
        )

        async def run_code(on_output: OutputHandler, tools: ToolHost | None) -> Execution:
            run = self._pool.execute_in_background if query.is_background else self._pool.execute
            execute = self._bind(session_id, call.python_code, timeout, options, run)
            if tools is not None:
                execute = partial(execute, tools=tools)
            return await run_redacted(execute, on_output, instance=options.instance)

        return await self._held_runs.answer(request, run_code)

    async def _run_shell(
        self, arguments: Mapping[str, Any], options: CallOptions
    ) -> ToolCallResult:
        call = _ShellArguments.model_validate(arguments)
        args = call.exec_command_and_args or []
        code = build_shell_code(args if call.shell_command is None else call.shell_command)
        return await self._answer(call, code, options, self._build_shell_result)

    async def _answer(
        self, call: _RunArguments, code: str, options: CallOptions, build: BuildResult
    ) -> ToolCallResult:
        """Run code and build the answer. A run that is not of our client may be left."""
        if self._left_runs is None or options.run is not None:
            return await transform_in_lane(await self._execute(call, code, options), build)
        session_id = self._environments.resolve_session_id(call.environment_id)
        if self._admit_run is not None:
            await self._admit_run(session_id)
        longest = self._limits.background_timeout
        timeout = _choose_timeout(call, longest, longest)
        run = self._build_left_run(session_id, create_name(), code, timeout, options)
        return await self._left_runs.start(replace(run, build_result=build))

    async def _check_run(
        self, arguments: Mapping[str, Any], options: CallOptions
    ) -> ToolCallResult:
        call = CheckArguments.model_validate(arguments)
        session_id = self._environments.resolve_session_id(call.environment_id)
        if self._left_runs is None or not is_name(call.run):
            return _build_failure("InvalidArguments", f"{call.run!r} is not the name of a run.")
        limit = self._limits.execution_timeout  # it starts nothing, but a request needs one
        run = self._build_left_run(session_id, call.run, "", limit, options)
        return await self._left_runs.check(run, call.action)

    def _build_left_run(
        self, session_id: str, name: str, code: str, timeout: timedelta, options: CallOptions
    ) -> LeftRun:
        async def run_code(on_output: OutputHandler, _: ToolHost | None) -> Execution:
            def handle(event: OutputEvent) -> None:
                on_output(event)
                if options.on_output is not None:
                    options.on_output(event)

            run = self._pool.execute_in_background
            execute = self._bind(session_id, code, timeout, options, run)
            return await run_redacted(execute, handle, instance=options.instance)

        request = HeldRequest(
            session_id=session_id,
            name=name,
            query=RunQuery(),
            code=code,
            timeout=timeout,
            instance=options.instance,
            value=None,
            env=self._get_env(session_id, options.env),
        )
        return LeftRun(request, run_code, self._build_python_result)

    def _build_python_result(self, execution: Execution) -> ToolCallResult:
        fields = _build_python_fields(execution, self._limits.output_characters)
        return _build_result(execution, fields)

    def _build_shell_result(self, execution: Execution) -> ToolCallResult:
        fields = _build_python_fields(execution, self._limits.output_characters)
        exit_code = fields.pop("executionResult")
        exit_code = exit_code if isinstance(exit_code, int) else -1
        return _build_result(execution, fields | {"exitCode": exit_code}, failed=exit_code != 0)

    async def _execute(self, call: _RunArguments, code: str, options: CallOptions) -> Execution:
        session_id = self._environments.resolve_session_id(call.environment_id)
        longest = self._limits.execution_timeout
        timeout = _choose_timeout(call, longest, longest)
        execute = self._bind(session_id, code, timeout, options, self._pool.execute)
        if self._admit_run is not None:
            await self._admit_run(session_id)
        key = None if options.run is None else RunKey(session_id, options.run)
        with self._runs.claim(key):
            return await run_redacted(execute, options.on_output, instance=options.instance)

    def _bind(
        self,
        session_id: str,
        code: str,
        timeout: timedelta,
        options: CallOptions,
        run: _RunCode,
    ) -> _RunCode:
        """Return a method of the pool that runs code, with what a call gives."""
        execute = partial(run, session_id, code, timeout=timeout)
        env = self._get_env(session_id, options.env)
        if env is None:
            return execute
        check_env_support(self._pool.capabilities)
        return partial(execute, env=env)

    def _get_env(
        self, session_id: str, given: SessionEnvironment | None
    ) -> SessionEnvironment | None:
        """Return the variables that a run brings: the server's, and in their place its client's.

        A client that gives variables also sends calls of this package without any. Those leave the
        variables of the session as they are.
        """
        if self._env is None:
            return given
        if given is None:
            return None if session_id in self._with_own_env else self._env
        self._with_own_env[session_id] = None
        self._with_own_env.move_to_end(session_id)
        if len(self._with_own_env) > MAX_NAMES:
            self._with_own_env.popitem(last=False)
        return self._env.merge(given)


def _choose_timeout(call: _RunArguments, default: timedelta, longest: timedelta) -> timedelta:
    if call.timeout_seconds is None:
        return min(default, longest)
    return timedelta(seconds=min(call.timeout_seconds, longest.total_seconds()))


def _build_python_fields(execution: Execution, limit: int) -> dict[str, Any]:
    value = get_main_value(execution)
    fields = build_run_fields(
        execution, limit, clip(value, limit) if isinstance(value, str) else value
    )
    succeeded = execution.status == "succeeded"
    fields["status"] = "Succeeded" if succeeded else "Failed"
    displayed = [clip(r.text, limit) for r in execution.results if r.text and not r.is_main]
    more = {
        "displayed": displayed,
        "files": [redact(file.name) for file in execution.files],
        "notes": list(execution.notes),
    }
    return fields | {name: value for name, value in more.items() if value}


def _build_result(
    execution: Execution, fields: dict[str, Any], *, failed: bool = False
) -> ToolCallResult:
    """Return the fields twice, structured and as text, or only as text next to an image.

    Agent Framework drops the image when both are present (its `structured_first` default).
    """
    images = [
        {"type": "image", "data": data, "mimeType": kind} for kind, data in find_images(execution)
    ]
    answer = build_json_result(fields)
    return ToolCallResult(
        content=[*answer.content, *images],
        structured=None if images else fields,
        is_error=failed or execution.error is not None,
        meta=_build_execution_result(execution).meta,
    )


def _build_execution_result(execution: Execution) -> ToolCallResult:
    """Return the execution alone, for the cci-plugins client."""
    meta = {executions.META_KEY: executions.dump_execution(execution)}
    return ToolCallResult([], is_error=execution.error is not None, meta=meta)


def _build_failure(code: str, message: str, meta: dict[str, Any] | None = None) -> ToolCallResult:
    content = [{"type": "text", "text": f"{code}: {message}"}]
    return ToolCallResult(content, is_error=True, meta=meta or {})


def _describe_tools(max_timeout: float, left_runs: LeftRuns | None) -> list[dict[str, Any]]:
    environment = ENVIRONMENT_SCHEMA | {
        "description": f"The environment: what {LAUNCH} gave, the same for all steps of a task."
    }
    limit = {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": f"Stop the run after so many seconds, at most {max_timeout:g}.",
    }
    python = {"type": "string", "description": "Python source; the last expression is shown."}
    command = {"type": "string", "description": "A command line for the shell."}
    args = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    args["description"] = "A program and its arguments, instead of shellCommand."
    runs = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False}
    more = "" if left_runs is None else f" {describe_wait(left_runs.wait)}"
    return [
        {
            "name": LAUNCH,
            "title": "Launch an environment",
            "description": "Get the id of a new, empty environment. Call this first, once.",
            "inputSchema": _build_schema({}),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        },
        {
            "name": RUN_PYTHON,
            "title": "Run Python",
            "description": "Run Python in an environment. Variables and the files in the working "
            "folder stay for later calls. Images that are displayed come back as images." + more,
            "inputSchema": _build_schema(
                {"environmentId": environment, "pythonCode": python, "timeoutSeconds": limit},
                "environmentId",
                "pythonCode",
            ),
            "annotations": runs,
        },
        {
            "name": RUN_SHELL,
            "title": "Run a shell command",
            "description": "Run a command in an environment and get its output and exit code. "
            "Give either shellCommand or execCommandAndArgs." + more,
            "inputSchema": _build_schema(
                {
                    "environmentId": environment,
                    "shellCommand": command,
                    "execCommandAndArgs": args,
                    "timeoutSeconds": limit,
                },
                "environmentId",
            ),
            "annotations": runs,
        },
    ]


def _build_schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})
