"""Progress as a person reads it: a line for what is done, and what goes on below, on a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Protocol

from rich.text import Text

from . import console

_MARKS = {"created": "+", "updated": "~", "removed": "-", "kept": "=", "note": "!", "done": "*"}
_STYLES = {"created": "green", "updated": "yellow", "removed": "red", "note": "bold"}


class Told(Protocol):
    """What `cci_plugins.provisioning.Progress` says of itself."""

    @property
    def state(self) -> str:
        """How it stands."""
        ...

    @property
    def message(self) -> str:
        """One line."""
        ...


async def tell(run: AsyncIterable[Told]) -> None:
    """Show the progress of a run until it ends."""
    words = console.words()
    if not words.is_terminal or words.is_dumb_terminal:
        async for progress in run:
            words.print(_line(progress))
        return
    with words.status("looking at what is there") as status:
        async for progress in run:
            if progress.state in {"working", "waiting"}:
                status.update(Text(progress.message))
            else:
                words.print(_line(progress))


def _line(progress: Told) -> Text:
    mark = _MARKS.get(progress.state, " ")
    return Text(f"{mark} {progress.message}", style=_STYLES.get(progress.state, "dim"))
