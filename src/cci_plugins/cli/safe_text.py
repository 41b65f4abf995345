"""Text of sessions for a terminal, where it could move the cursor or pass for something else."""

from __future__ import annotations

from collections.abc import Callable

_KEPT = "\n\t"


def escape_text(text: str) -> str:
    """Return text with control codes escaped, also those that change its direction.

    Args:
        text: Text of a session, which may be hostile. Its lines and tabs stay.
    """
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(
        char if char in _KEPT or char.isprintable() else ascii(char)[1:-1] for char in text
    )


class MarkedWriter:
    """Writes text of sessions with a mark before each line, so that it passes for nothing else.

    Args:
        write: Called with the marked text.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._is_open = False

    def write(self, text: str, mark: str) -> None:
        """Write text, which may end within a line.

        Args:
            text: The text.
            mark: What stands before each line.
        """
        parts = []
        for line in escape_text(text).splitlines(keepends=True) if text else []:
            parts.append(line if self._is_open else mark + line)
            self._is_open = not line.endswith("\n")
        if parts:
            self._write("".join(parts))

    def end_line(self) -> None:
        """End a line that is open."""
        if self._is_open:
            self._write("\n")
            self._is_open = False
