"""Semantic Kernel: a plugin for a kernel or a `ChatCompletionAgent`."""

from __future__ import annotations

from secrets import token_hex
from typing import Annotated

from . import tool
from .errors import ConfigurationError
from .interpreter import CodeInterpreter
from .sessions import current_key
from .telemetry import logger

try:
    from semantic_kernel.functions import kernel_function
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Semantic Kernel plugin needs {missing.name}",
        hint='pip install "cci-plugins[semantic-kernel]"',
    ) from missing

__all__ = ["CodeInterpreterPlugin"]


class CodeInterpreterPlugin:
    """Offers `execute_code` to the model.

    Semantic Kernel tells a plugin no thread id, so the host names the conversation: with
    `interpreter.use_session(thread.id)` around the call, or with the argument `session_id`, which
    the model does not see (`KernelArguments(session_id=thread.id)`). With neither, all calls of
    this plugin object share one session, and a warning says so once.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.

    Example:
        ```python
        kernel.add_plugin(CodeInterpreterPlugin(), "code_interpreter")
        ```
    """

    def __init__(self, interpreter: CodeInterpreter | None = None) -> None:
        self._interpreter = interpreter
        self._own_key = f"semantic-kernel-{token_hex(8)}"
        self._warned = False

    @kernel_function(name=tool.NAME, description=tool.DESCRIPTION)
    async def execute_code(
        self,
        code: Annotated[str, tool.CODE_DESCRIPTION],
        session_id: Annotated[
            str | None, "The conversation.", {"include_in_function_choices": False}
        ] = None,
    ) -> tool.ToolReply:
        """Run code for the model.

        Returns:
            A reply whose text the model reads, and whose `execution` stays in
            `FunctionResultContent.result` for filters and `on_intermediate_message`.
        """
        return await tool.call(self._interpreter, code, session_key=self._key(session_id))

    def _key(self, session_id: str | None) -> str:
        key = session_id or current_key.get()
        if key:
            return key
        if not self._warned:
            self._warned = True
            logger.warning(
                "no conversation was named, so all calls of this plugin share one session; "
                "use `interpreter.use_session(thread.id)`"
            )
        return self._own_key
