"""Name and arguments of a script, as a comment that follows its code.

`cci run` appends it. It is the last line, so the numbers of all other lines stay, and a session
that does not know it runs the code as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

SCRIPT_COMMENT = "# cci: script "


def append_script(code: str, words: Sequence[str]) -> str:
    """Append the name and the arguments of a script to its code."""
    end = "\n" if code and not code.endswith("\n") else ""
    return f"{code}{end}{SCRIPT_COMMENT}{json.dumps([*words])}"


def find_script(code: str) -> list[str] | None:
    """Return name and arguments of the script that code comes from, or None."""
    line = code.rstrip().rpartition("\n")[2]
    if not line.startswith(SCRIPT_COMMENT):
        return None
    with suppress(ValueError, RecursionError):
        words = json.loads(line.removeprefix(SCRIPT_COMMENT))
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return words
    return None


def remove_script(code: str) -> str:
    """Return code without the comment."""
    return code if find_script(code) is None else code[: code.rindex(SCRIPT_COMMENT)]
