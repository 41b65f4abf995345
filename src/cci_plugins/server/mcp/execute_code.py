"""The tool `execute_code` for MCP clients, in the session of their MCP session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.log import logger
from cci_plugins.core.redacted_output import transform_in_lane
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.base import OutputHandler
from cci_plugins.redaction import redact
from cci_plugins.server.answers import find_images, sanitize_execution
from cci_plugins.server.rest.errors import SERVER_FAULT
from cci_plugins.tools import check_run, execute_code
from cci_plugins.tools.execute_code import ToolReply
from cci_plugins.tools.long_run_texts import CHECK_RUN, describe_wait
from cci_plugins.tools.options import build_description, check_wait_support

from .answers import ToolCallResult
from .environments import EnvironmentIdError
from .left_runs import RUN, RUN_SCHEMA, describe_check_tool, is_name
from .mounted_folder import MountedFolder
from .resources import to_resource_link
from .sessions import McpSessions, is_stateless, mcp_session_id
from .tools import ENVIRONMENT_SCHEMA, LAUNCH, RUN_PYTHON

_MAX_LINKS = 20
ENVIRONMENT_KEY = "cci_plugins/environmentId"
_ENVIRONMENT = "environmentId"
_STATELESS_DESCRIPTION = (
    f"Without {_ENVIRONMENT}, the code runs in a new environment, whose id the answer gives. Pass "
    "that id to every later call, because variables and files are kept in the environment only."
)
_STATELESS_PARAMETERS: dict[str, Any] = execute_code.PARAMETERS | {
    "properties": execute_code.PARAMETERS["properties"] | {_ENVIRONMENT: ENVIRONMENT_SCHEMA}
}
_OTHER_RUNS = f"Leave it out for the run of {execute_code.NAME}."
_NO_SESSION = (
    f"{execute_code.NAME} keeps variables for an MCP session, and this request belongs to none. "
    "Either begin with initialize and send the header Mcp-Session-Id that it gives, or call "
    f"{LAUNCH} once and pass its environmentId to {RUN_PYTHON}."
)


class ToolProvider(Protocol):
    """The tools of an endpoint."""

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the form of `tools/list`."""
        ...

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool. Return None if no tool has this name."""
        ...


class ExecuteCodeTools:
    """`execute_code` in front of the platform's tools.

    It runs in the session of the client's MCP session. A client of the stateless revision has none
    and names an environment. Other clients do not get the tool.

    Args:
        platform: The tools that take an environment id, or None to offer `execute_code` alone.
        mcp_sessions: The session of each MCP session.
        file_links: Whether an answer links the files that its run wrote. Clients without
            resources pass a link to the model as a file, which not every model's API accepts.
        mounted: Folder whose files are copied into each session, or None.
        wait: Longest time until a run is answered for, with `check_run` for longer ones. None
            waits for the end of each run.

    Raises:
        ConfigurationError: The pool cannot run code in the background, which `wait` needs.
    """

    def __init__(
        self,
        platform: ToolProvider | None,
        mcp_sessions: McpSessions,
        *,
        file_links: bool,
        mounted: MountedFolder | None = None,
        wait: Duration | None = None,
    ) -> None:
        self._wait = None if wait is None else to_timedelta(wait, "wait")
        check_wait_support(self._wait, mcp_sessions.host.pool.capabilities)
        self._platform = platform
        self._mcp_sessions = mcp_sessions
        self._file_links = file_links
        self._mounted = mounted

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the form of `tools/list`."""
        others = [] if self._platform is None else self._platform.list_tools()
        has_tool = mcp_session_id.get() is not None or is_stateless.get()
        if not has_tool:
            return others
        own = [self._describe_tool()]
        if self._wait is not None:
            check_tool = next((one for one in others if one["name"] == CHECK_RUN), None)
            others = [one for one in others if one["name"] != CHECK_RUN]
            own.append(_describe_check_tool(self._wait, check_tool))
        return [*own, *others]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool. Return None if no tool has this name."""
        try:
            return await self._call(name, arguments, meta, on_output)
        except Exception as error:  # noqa: BLE001 - a fault of the server must not break the protocol
            logger.exception("a tool failed because of a fault in the server")
            known = isinstance(error, CodeInterpreterError)
            return _build_failure(redact(str(error)) if known else SERVER_FAULT)

    async def _call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None,
    ) -> ToolCallResult | None:
        if name == CHECK_RUN and self._wait is not None and self._has_run(arguments):
            return await self._check_run(self._wait, arguments)
        if name != execute_code.NAME:
            other = self._platform
            return None if other is None else await other.call(name, arguments, meta, on_output)
        code = arguments.get("code")
        if not isinstance(code, str):
            return _build_failure("code must be the Python source, as text.")
        if is_stateless.get():
            return await self._call_in_environment(arguments.get(_ENVIRONMENT), code, on_output)
        session = await self._mcp_sessions.get_current_session()
        if session is None:
            return _build_failure(_NO_SESSION)
        return await self._answer(session, code, on_output)

    def _has_run(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether `check_run` is about a run of `execute_code`."""
        has_tool = mcp_session_id.get() is not None or is_stateless.get()
        return has_tool and not (self._platform is not None and is_name(arguments.get(RUN)))

    async def _check_run(self, wait: timedelta, arguments: Mapping[str, Any]) -> ToolCallResult:
        """Check the run that `execute_code` left in the client's session."""
        environment_id = arguments.get(_ENVIRONMENT) if is_stateless.get() else None
        try:
            session = (
                self._mcp_sessions.get_environment(environment_id)
                if is_stateless.get()
                else await self._mcp_sessions.get_current_session()
            )
        except EnvironmentIdError as error:
            return _build_failure(f"{error.code}: {error}")
        if session is None:
            return _build_failure(_NO_SESSION)
        reply = await check_run.call_in_session(
            session,
            arguments.get("action"),
            wait=wait,
            output_characters=self._mcp_sessions.host.limits.output_characters,
            sanitize=sanitize_execution,
        )
        given_id = None if environment_id is None else str(environment_id)
        return await transform_in_lane(
            reply.execution, lambda _: self._build_result(reply, given_id)
        )

    async def _call_in_environment(
        self, given_id: object, code: str, on_output: OutputHandler | None
    ) -> ToolCallResult:
        """Run code in the environment that the request names, or in a new one."""
        is_new = given_id is None
        environment_id = self._mcp_sessions.launch_environment() if is_new else given_id
        try:
            session = self._mcp_sessions.get_environment(environment_id)
        except EnvironmentIdError as error:
            return _build_failure(f"{error.code}: {error} Leave {_ENVIRONMENT} out for a new one.")
        result = await self._answer(session, code, on_output, str(environment_id))
        if is_new:
            text = f"{_ENVIRONMENT}: {environment_id}"
            result.content.append({"type": "text", "text": text})
        result.meta[ENVIRONMENT_KEY] = environment_id
        return result

    async def _answer(
        self,
        session: Session,
        code: str,
        on_output: OutputHandler | None,
        environment_id: str | None = None,
    ) -> ToolCallResult:
        """Copy the mounted files into a new session, run the code, and build the answer."""
        if self._mounted is not None:
            try:
                await self._mounted.copy_into(session)
            except CodeInterpreterError as error:
                return _build_failure(f"Nothing ran: the user's files could not be copied: {error}")
        reply = await self._run(session, code, on_output)
        return await transform_in_lane(
            reply.execution, lambda _: self._build_result(reply, environment_id)
        )

    async def _run(self, session: Session, code: str, on_output: OutputHandler | None) -> ToolReply:
        return await execute_code.call_in_session(
            session,
            code,
            output_characters=self._mcp_sessions.host.limits.output_characters,
            on_output=on_output,
            sanitize=sanitize_execution,
            wait=self._wait,
        )

    def _describe_tool(self) -> dict[str, Any]:
        pool = self._mcp_sessions.host.pool
        options, parameters = execute_code.DEFAULT_OPTIONS, execute_code.PARAMETERS
        notes = [] if self._wait is None else [describe_wait(self._wait)]
        notes += [] if self._mounted is None else [self._mounted.description]
        if is_stateless.get():
            notes.append(_STATELESS_DESCRIPTION)
            parameters = _STATELESS_PARAMETERS
        options = replace(options, instructions=" ".join(notes))
        return {
            "name": execute_code.NAME,
            "title": "Run Python",
            "description": build_description(
                execute_code.DESCRIPTION,
                options,
                pool.known_packages,
                capabilities=pool.capabilities,
            ),
            "inputSchema": parameters,
            "annotations": {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False},
        }

    def _build_result(self, reply: ToolReply, environment_id: str | None = None) -> ToolCallResult:
        """Build text within the budget, then images. Structured content would hide the images."""
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}]
        content += [
            {"type": "image", "data": data, "mimeType": kind}
            for kind, data in find_images(reply.execution)
        ]
        if self._file_links:
            files = reply.execution.files[:_MAX_LINKS]
            content += [to_resource_link(file, environment_id) for file in files]
        return ToolCallResult(content, is_error=reply.failed)


def _describe_check_tool(wait: timedelta, other: dict[str, Any] | None) -> dict[str, Any]:
    """Return `check_run`, also for the runs of the platform's tools if it is offered for them.

    Args:
        wait: Longest time until an answer.
        other: `check_run` of the platform's tools, or None.
    """
    properties, required = check_run.PARAMETERS["properties"], ["action"]
    if other is not None:
        names = {
            _ENVIRONMENT: ENVIRONMENT_SCHEMA,
            RUN: RUN_SCHEMA | {"description": f"{RUN_SCHEMA['description']} {_OTHER_RUNS}"},
        }
        properties = properties | names
    if is_stateless.get():
        properties, required = (
            properties | {_ENVIRONMENT: ENVIRONMENT_SCHEMA},
            [_ENVIRONMENT, *required],
        )
    schema = check_run.PARAMETERS | {"properties": properties, "required": required}
    return describe_check_tool(wait, schema)


def _build_failure(message: str) -> ToolCallResult:
    return ToolCallResult([{"type": "text", "text": message}], is_error=True)
