"""The three tools of the platform's MCP server, over any session pool.

Names and arguments are those of the tutorials (learn.microsoft.com, Container Apps sessions with
MCP); older names of `launchShell` are understood, and one of each is listed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.core.redacted_output import CoveredOutput, covered
from cci_plugins.core.rendering import clip
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client import executions, failures
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.server import identifiers
from cci_plugins.server.answers import main_value, pictures, run_fields, sendable
from cci_plugins.server.shell import shell_code

from .environments import EnvironmentIdError, Environments, OpenEnvironments

LAUNCH = "launchShell"
RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
ALIASES = {"launchShellEnvironment": LAUNCH, "launchPythonEnvironment": LAUNCH}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a tool call, in MCP's fields."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a call asks for beside its arguments.

    Attributes:
        instance: The instance of the session that it needs.
        on_output: Told the output, where the pool streams.
    """

    instance: str | None
    on_output: OutputHandler | None


_Tool = Callable[[Mapping[str, Any], _Wish], Awaitable[Answer]]


class BadArgumentsError(Exception):
    """A call with arguments that do not fit; `code` and the text tell the model what to mend."""

    def __init__(self, message: str, code: str = "InvalidArguments") -> None:
        super().__init__(message)
        self.code = code


class Tools:
    """Lists and calls the tools.

    Args:
        pool: Where code runs.
        limits: `execution_timeout` is the longest run, `output_characters` bounds each stream.
        environments: Which environment ids are given and taken.
    """

    def __init__(
        self, pool: SessionPool, limits: Limits, environments: Environments | None = None
    ) -> None:
        self._pool = pool
        self._environments = OpenEnvironments() if environments is None else environments
        self._limits = limits
        self._tools: dict[str, _Tool] = {
            LAUNCH: self._launch,
            RUN_PYTHON: self._run_python,
            RUN_SHELL: self._run_shell,
        }

    def listed(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        tools = _listed(self._limits.execution_timeout.total_seconds())
        if not self._environments.takes_any:
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
    ) -> Answer | None:
        """Call a tool; None when there is none of that name.

        Args:
            name: The tool.
            arguments: What it gets.
            meta: `_meta` of the request.
            on_output: Told the output, where the pool streams.
        """
        tool = self._tools.get(ALIASES.get(name, name))
        if tool is None:
            return None
        try:
            instance = meta.get(executions.INSTANCE_KEY)
            wish = _Wish(instance if isinstance(instance, str) else None, on_output)
            return await tool(arguments, wish)
        except BadArgumentsError as error:
            return _failure(error.code, str(error))
        except EnvironmentIdError as error:
            return _failure(error.code, f"{error} Call {LAUNCH} for one.")
        except CodeInterpreterError as error:
            dumped = failures.dump_error(error)
            return _failure(dumped["code"], str(error), {failures.META_KEY: dumped})
        except Exception:  # noqa: BLE001 - a fault of ours must not break the protocol
            logger.exception("a tool failed in the server itself")
            return _failure("InternalServerError", "The server failed; its log says why.")

    async def _launch(self, *_: object) -> Answer:
        return _with_json({"environmentId": self._environments.mint()})

    async def _run_python(self, arguments: Mapping[str, Any], wish: _Wish) -> Answer:
        code = arguments.get("pythonCode")
        if not isinstance(code, str):
            raise BadArgumentsError("pythonCode must be the Python source, as text.")
        execution = await self._execute(arguments, code, wish)
        fields = _run_fields(execution, self._limits.output_characters)
        return _answer(execution, fields)

    async def _run_shell(self, arguments: Mapping[str, Any], wish: _Wish) -> Answer:
        command, args = arguments.get("shellCommand"), arguments.get("execCommandAndArgs")
        is_list = isinstance(args, list) and args and all(isinstance(arg, str) for arg in args)
        if (not isinstance(command, str)) == (not is_list):
            raise BadArgumentsError(
                "Give either shellCommand, as text, or execCommandAndArgs, as a list of texts."
            )
        code = shell_code(command if isinstance(command, str) else list(args or []))
        execution = await self._execute(arguments, code, wish)
        fields = _run_fields(execution, self._limits.output_characters)
        exit_code = fields.pop("executionResult")
        exit_code = exit_code if isinstance(exit_code, int) else -1
        return _answer(execution, fields | {"exitCode": exit_code}, failed=exit_code != 0)

    async def _execute(self, arguments: Mapping[str, Any], code: str, wish: _Wish) -> Execution:
        session_id = self._environments.session_of(arguments.get("environmentId"))
        timeout = self._timeout(arguments.get("timeoutSeconds"))
        output = None if wish.on_output is None else CoveredOutput(wish.on_output)
        try:
            execution = await self._pool.execute(
                session_id,
                code,
                timeout=timeout,
                on_output=None if output is None else output.hear,
                instance=wish.instance,
            )
        finally:
            if output is not None:
                output.finish()
        return sendable(covered(execution))

    def _timeout(self, value: object) -> timedelta:
        longest = self._limits.execution_timeout
        if value is None:
            return longest
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise BadArgumentsError("timeoutSeconds must be a number above 0.")
        return timedelta(seconds=min(value, longest.total_seconds()))


def _run_fields(execution: Execution, limit: int) -> dict[str, Any]:
    value = main_value(execution)
    fields = run_fields(execution, limit, clip(value, limit) if isinstance(value, str) else value)
    succeeded = execution.status == "succeeded"
    fields["status"] = "Succeeded" if succeeded else "Failed"
    shown = [clip(r.text, limit) for r in execution.results if r.text and not r.is_main]
    more = {
        "displayed": shown,
        "files": [file.name for file in execution.files],
        "notes": list(execution.notes),
    }
    return fields | {name: value for name, value in more.items() if value}


def _answer(execution: Execution, fields: dict[str, Any], *, failed: bool = False) -> Answer:
    """Fields twice, structured and as text; beside an image only as text.

    Agent Framework drops the image when both are there (its `structured_first` default).
    """
    images = [
        {"type": "image", "data": data, "mimeType": kind} for kind, data in pictures(execution)
    ]
    answer = _with_json(fields)
    return Answer(
        content=[*answer.content, *images],
        structured=None if images else fields,
        is_error=failed or execution.error is not None,
        meta={executions.META_KEY: executions.dump_execution(execution)},
    )


def _with_json(fields: dict[str, Any]) -> Answer:
    text = json.dumps(fields, ensure_ascii=False)
    return Answer([{"type": "text", "text": text}], fields)


def _failure(code: str, message: str, meta: dict[str, Any] | None = None) -> Answer:
    content = [{"type": "text", "text": f"{code}: {message}"}]
    return Answer(content, is_error=True, meta=meta or {})


def _listed(longest: float) -> list[dict[str, Any]]:
    environment = {
        "type": "string",
        "minLength": identifiers.SHORTEST,
        "maxLength": identifiers.LONGEST,
        "description": f"The environment: what {LAUNCH} gave, the same for all steps of a task.",
    }
    limit = {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": f"Stop the run after so many seconds, at most {longest:g}.",
    }
    python = {"type": "string", "description": "Python source; the last expression is shown."}
    command = {"type": "string", "description": "A command line for the shell."}
    args = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    args["description"] = "A program and its arguments, instead of shellCommand."
    runs = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False}
    return [
        {
            "name": LAUNCH,
            "title": "Launch an environment",
            "description": "Get the id of a new, empty environment. Call this first, once.",
            "inputSchema": _schema({}),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        },
        {
            "name": RUN_PYTHON,
            "title": "Run Python",
            "description": "Run Python in an environment. Variables and the files in the working "
            "folder stay for later calls. Images that are displayed come back as images.",
            "inputSchema": _schema(
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
            "Give either shellCommand or execCommandAndArgs.",
            "inputSchema": _schema(
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


def _schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})
