"""`execute_code` for MCP clients: the tool of every door, in the session of the MCP session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cci_plugins.common.log import logger
from cci_plugins.core.rendering import render_text
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.server.answers import pictures, sendable
from cci_plugins.tools import execute_code
from cci_plugins.tools.options import describe

from .resources import link
from .sessions import Conversations, speaker
from .tools import LAUNCH, RUN_PYTHON, Answer

_LINKS = 20
_NO_SESSION = (
    f"{execute_code.NAME} keeps variables for an MCP session, and this request belongs to none. "
    "Either begin with initialize and send the header Mcp-Session-Id that it gives, or call "
    f"{LAUNCH} once and pass its environmentId to {RUN_PYTHON}."
)


class Offer(Protocol):
    """What an endpoint lists and calls."""

    def listed(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        ...

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> Answer | None:
        """Call a tool; None when there is none of that name."""
        ...


class FriendlyTools:
    """`execute_code` before the platform's tools, for clients that keep an MCP session.

    Args:
        platform: The tools that take an environment id.
        conversations: The session of each MCP session.
        links: Whether an answer links the files that its run wrote. Clients that know no
            resources hand a link to the model as a file, which not every model's API takes.
    """

    def __init__(self, platform: Offer, conversations: Conversations, *, links: bool) -> None:
        self._platform = platform
        self._conversations = conversations
        self._links = links

    def listed(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        others = self._platform.listed()
        return others if speaker.get() is None else [self._listed(), *others]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> Answer | None:
        """Call a tool; None when there is none of that name."""
        if name != execute_code.NAME:
            return await self._platform.call(name, arguments, meta, on_output)
        code = arguments.get("code")
        if not isinstance(code, str):
            return _failure("code must be the Python source, as text.")
        session = await self._conversations.current()
        if session is None:
            return _failure(_NO_SESSION)
        return await self._run(session, execute_code.strip_fence(code), on_output)

    async def _run(self, session: Session, code: str, on_output: OutputHandler | None) -> Answer:
        try:
            execution = await session.run_at_home(code, None, on_output)
        except CodeInterpreterError as error:
            logger.warning("execute_code failed: %s: %s", type(error).__name__, error)
            return _failure(execute_code.failure_text(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not break the protocol
            logger.exception("execute_code failed unexpectedly")
            return _failure(execute_code.failure_text(error))
        return self._answer(sendable(execution))

    def _listed(self) -> dict[str, Any]:
        known = self._conversations.known_packages
        return {
            "name": execute_code.NAME,
            "title": "Run Python",
            "description": describe(execute_code.DESCRIPTION, execute_code.DEFAULTS, known),
            "inputSchema": execute_code.PARAMETERS,
            "annotations": {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False},
        }

    def _answer(self, execution: Execution) -> Answer:
        """Text within the model's budget, then images; nothing structured, see `mcp_tools`."""
        text = render_text(execution, self._conversations.limits.output_characters)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [
            {"type": "image", "data": data, "mimeType": kind} for kind, data in pictures(execution)
        ]
        if self._links:
            content += [link(file) for file in execution.files[:_LINKS]]
        return Answer(content, is_error=execution.error is not None)


def _failure(words: str) -> Answer:
    return Answer([{"type": "text", "text": words}], is_error=True)
