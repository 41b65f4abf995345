"""Progress as a person reads it: a line for what is done, and what goes on below, on a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Protocol

from rich.text import Text

from . import console

_SIGNS = {"created": "+", "updated": "~", "removed": "-", "kept": "=", "note": "!", "done": "*"}
_STYLES = {"created": "green", "updated": "yellow", "removed": "red", "note": "bold"}


class ProgressItem(Protocol):
    """What `cci_plugins.provisioning.Progress` says of itself."""

    @property
    def state(self) -> str:
        """How it stands."""
        ...

    @property
    def message(self) -> str:
        """One line."""
        ...


async def show_run_progress(run: AsyncIterable[ProgressItem]) -> None:
    """Show the progress of a run until it ends."""
    stderr_console = console.stderr_console()
    if not stderr_console.is_terminal or stderr_console.is_dumb_terminal:
        async for progress in run:
            stderr_console.print(_format_line(progress))
        return
    with stderr_console.status("looking at what is there") as status:
        async for progress in run:
            if progress.state in {"working", "waiting"}:
                status.update(Text(progress.message))
            else:
                stderr_console.print(_format_line(progress))


def _format_line(progress: ProgressItem) -> Text:
    sign = _SIGNS.get(progress.state, " ")
    return Text(f"{sign} {progress.message}", style=_STYLES.get(progress.state, "dim"))
