"""Registry of secrets that are known at run time, and the search for them in any text.

A secret is registered in every spelling it may appear in: as it is, percent-encoded once or
twice, escaped for JSON, HTML or Python, and inside base64 at any offset. That makes 16
spellings of a signature, times up to 1,024 secrets. Trying each at each place is too slow.

The index is by grams: five consecutive characters. Each spelling is at least eight characters
long and is entered under the grams at its offsets 0 to 3. Of any four consecutive places in a
text, one hits one of these grams wherever the spelling stands. The search therefore looks up
every fourth place only, with one dict access each, and compares a whole spelling only where a
gram matches. Its time is linear in the text and independent of the number of secrets. Up to 64
spellings are found faster one by one. Where many spellings share a gram, as tokens of one issuer
do, the text is cut to each of their lengths and looked up among all spellings.

A text in chunks may end inside a spelling. `_find_partial` yields each place near the end where
the remaining text is the start of a spelling: by `_heads` for fewer than five characters, by the
gram at offset 0 for more. From the first such place on, the text is held back.

Writers hold the lock. Readers do not, so an entry of the index is an immutable tuple that is
replaced as a whole. Secrets, spellings and heads are counted, because two users may register the
same secret and two secrets may share a spelling.
"""

from __future__ import annotations

import base64
import html
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote, quote_plus, unquote

from .scanner import REDACTED

_T = TypeVar("_T")
MIN_LENGTH = 8  # characters, because a shorter value would hide ordinary words
CAPACITY = 1024
CHUNK_CHARACTERS = 4096  # a longer secret is registered in parts of this size
_GRAM = 5
FEW_SPELLINGS = 64  # are searched for one by one, which is faster
_MANY_OF_GRAM = 16  # spellings: beyond it, comparing each with the text takes longer than a look-up
_STEP = MIN_LENGTH - _GRAM + 1  # one gram in so many characters hits every spelling


class SecretRegistry:
    """A bounded, counted set of secrets, indexed by every spelling they may appear in.

    Args:
        capacity: Most secrets. Beyond it, the one registered longest ago is removed.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._uses: OrderedDict[str, int] = OrderedDict()
        self._spellings: Counter[str] = Counter()
        self._grams: dict[str, tuple[tuple[str, int], ...]] = {}
        self._shapes: dict[str, tuple[object, tuple[tuple[int, int], ...]]] = {}
        self._heads: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._longest = 0
        self._few: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._uses)

    def register(self, secret: str) -> None:
        """Add a secret, or one more use of it."""
        with self._lock:
            for chunk in _split_secret(secret):
                if chunk not in self._uses:
                    self._add(chunk)
                self._uses[chunk] = self._uses.get(chunk, 0) + 1
                self._uses.move_to_end(chunk)
            while len(self._uses) > self._capacity:
                self._remove(self._uses.popitem(last=False)[0])

    def unregister(self, secret: str) -> None:
        """Remove one use of a secret. With its last use, the secret is removed."""
        with self._lock:
            for chunk in _split_secret(secret):
                uses = self._uses.get(chunk, 0)
                if uses > 1:
                    self._uses[chunk] = uses - 1
                elif uses:
                    del self._uses[chunk]
                    self._remove(chunk)

    def redact(self, text: str, *, last: bool = True) -> tuple[str, str]:
        """Return the text without secrets, and the end of it that may still become one.

        Args:
            text: The text.
            last: Whether no text follows, so that nothing is held back.
        """
        if not self._uses:
            return text, ""
        found = self._find(text)
        partial = [] if last else list(self._find_partial(text))
        output: list[str] = []
        done = 0
        for start in sorted(found):
            if start >= done:
                if any(done <= begin <= start for begin in partial):
                    break
                output += [text[done:start], REDACTED]
                done = start + found[start]
        pending_start = min((begin for begin in partial if begin >= done), default=len(text))
        output.append(text[done:pending_start])
        return "".join(output), text[pending_start:]

    def _note_sizes(self) -> None:
        self._longest = max(self._sizes, default=0)
        self._few = tuple(self._spellings) if len(self._spellings) <= FEW_SPELLINGS else ()

    def _find(self, text: str) -> dict[int, int]:
        found: dict[int, int] = {}
        grams = self._grams
        for spelling in self._few:
            start = text.find(spelling)
            while start >= 0:
                found[start] = max(len(spelling), found.get(start, 0))
                start = text.find(spelling, start + 1)
        if self._few:
            return found
        places = range(0, len(text) - _GRAM + 1, _STEP)
        for at in [at for at in places if text[at : at + _GRAM] in grams]:
            gram = text[at : at + _GRAM]
            entries = grams.get(gram, ())
            if len(entries) > _MANY_OF_GRAM:
                for offset, length in self._get_shapes(gram, entries):
                    start = at - offset
                    if start >= 0 and text[start : start + length] in self._spellings:
                        found[start] = max(length, found.get(start, 0))
                continue
            for spelling, offset in entries:
                start = at - offset
                if start >= 0 and text.startswith(spelling, start):
                    found[start] = max(len(spelling), found.get(start, 0))
        return found

    def _get_shapes(
        self, gram: str, entries: tuple[tuple[str, int], ...]
    ) -> tuple[tuple[int, int], ...]:
        """Return the offsets and lengths of the spellings under a gram, each pair once."""
        known, shapes = self._shapes.get(gram, (None, ()))
        if known is not entries:
            shapes = tuple({(offset, len(spelling)) for spelling, offset in entries})
            self._shapes[gram] = entries, shapes
        return shapes

    def _find_partial(self, text: str) -> Iterator[int]:
        for begin in range(max(0, len(text) - self._longest + 1), len(text)):
            head = text[begin : begin + _GRAM]
            if head in self._heads or any(
                not offset
                and len(spelling) > len(text) - begin
                and spelling.startswith(text[begin:])
                for spelling, offset in self._grams.get(head, ())
            ):
                yield begin

    def _add(self, secret: str) -> None:
        for spelling in _derive_spellings(secret):
            self._spellings[spelling] += 1
            if self._spellings[spelling] == 1:
                self._sizes[len(spelling)] += 1
                self._heads.update(spelling[:size] for size in range(1, _GRAM))
                for gram, entry in _iter_grams(spelling):
                    self._grams[gram] = (*self._grams.get(gram, ()), entry)
        self._note_sizes()

    def _remove(self, secret: str) -> None:
        for spelling in _derive_spellings(secret):
            _decrement(self._spellings, spelling)
            if spelling not in self._spellings:
                _decrement(self._sizes, len(spelling))
                for size in range(1, _GRAM):
                    _decrement(self._heads, spelling[:size])
                for gram, entry in _iter_grams(spelling):
                    left = tuple(other for other in self._grams[gram] if other != entry)
                    if left:
                        self._grams[gram] = left
                    else:
                        del self._grams[gram]
                        self._shapes.pop(gram, None)
        self._note_sizes()


class RegisteredSecretScanner:
    """A filter that hides registered secrets in a text that arrives in chunks."""

    def __init__(self, secrets: SecretRegistry) -> None:
        self._secrets = secrets
        self._pending = ""

    def feed(self, chunk: str, *, last: bool = False) -> str:
        """Return the output so far, or all of it when this chunk is the last."""
        output, self._pending = self._secrets.redact(self._pending + chunk, last=last)
        return output


SECRETS = SecretRegistry()


def know(secret: str) -> None:
    """Hide this value from now on in all redaction. Fewer than 8 characters are ignored.

    Each call counts as one use, which `forget` removes. The 1,024 secrets registered last are
    kept, so that a process that forgets none does not grow.

    Args:
        secret: The value to hide.

    Example:
        ```python
        from cci_plugins.redaction import know, redact

        know("correct horse battery")
        print(redact("the password is correct horse battery"))
        ```
    """
    SECRETS.register(secret)


def forget(secret: str) -> None:
    """Remove one use of this value. A value that is not registered is ignored.

    Args:
        secret: The value that was given to `know`.
    """
    SECRETS.unregister(secret)


def _decrement(counter: Counter[_T], item: _T) -> None:
    counter[item] -= 1
    if not counter[item]:
        del counter[item]


def _split_secret(secret: str) -> list[str]:
    if len(secret) < MIN_LENGTH:
        return []
    size = -(
        -len(secret) // -(-len(secret) // CHUNK_CHARACTERS)
    )  # parts of equal size, so that none is too short
    return list(dict.fromkeys(secret[at : at + size] for at in range(0, len(secret), size)))


def _iter_grams(spelling: str) -> Iterator[tuple[str, tuple[str, int]]]:
    for offset in range(_STEP):
        yield spelling[offset : offset + _GRAM], (spelling, offset)


def _derive_spellings(secret: str) -> set[str]:
    found: set[str] = set()
    for plain in {secret, unquote(secret)}:
        found |= {plain, html.escape(plain), repr(plain)[1:-1]}
        escaped = json.dumps(plain)[1:-1]
        found |= {escaped, escaped.replace("/", "\\/"), json.dumps(escaped)[1:-1]}
        found |= {escaped.replace("+", "\\u002b").replace("=", "\\u003d").replace("&", "\\u0026")}
        found |= _percent_encode(plain) | _encode_base64(plain.encode("utf-8", "surrogatepass"))
    return {spelling for spelling in found if len(spelling) >= MIN_LENGTH}


def _percent_encode(plain: str) -> set[str]:
    data = plain.encode("utf-8", "surrogatepass")
    once = {quote(data, safe=""), quote(data), quote(data, safe="/=+"), quote_plus(data)}
    once |= {_lowercase_hex(text) for text in once}
    return once | {quote(text, safe="") for text in once} | {quote(text) for text in once}


def _lowercase_hex(text: str) -> str:
    first, *others = text.split("%")
    return first + "".join(f"%{other[:2].lower()}{other[2:]}" for other in others)


def _encode_base64(data: bytes) -> set[str]:
    """Return the base64 characters that depend on these bytes alone, at each of three offsets."""
    found: set[str] = set()
    for before in range(3):
        start = (before * 8 + 5) // 6
        stop = (before + len(data)) * 8 // 6
        padded = b"\0" * before + data
        found.add(base64.b64encode(padded).decode()[start:stop])
        found.add(base64.urlsafe_b64encode(padded).decode()[start:stop])
    return found
