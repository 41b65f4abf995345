"""JSON of large values, encoded in pieces so that other threads get their turn.

`json.dumps` holds Python's lock (the GIL) until a whole value is encoded, which for 30 MB stalls
the event loop even from a worker thread. Here no step encodes much more than `PIECE_CHARACTERS`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

PIECE_CHARACTERS = 256 * 1024
_PIECE_VALUES = 5_000
_GROUP = 1_000  # elements of a list or an object that are looked at together


def is_large(value: Any) -> bool:
    """Return whether a JSON value is too large to be encoded in one step.

    It looks at no more values than a small one has.
    """
    characters, values, waiting = 0, 0, [iter((value,))]
    while waiting:
        item = next(waiting[-1], waiting)
        if item is waiting:
            waiting.pop()
            continue
        values += 1
        if isinstance(item, str):
            characters += len(item)
        elif isinstance(item, Mapping):
            waiting.append(chain(item.keys(), item.values()))
        elif isinstance(item, list | tuple):
            waiting.append(iter(item))
        if characters > PIECE_CHARACTERS or values > _PIECE_VALUES:
            return True
    return False


def encode_in_pieces(value: Any) -> Iterator[bytes]:
    """Yield the JSON of a value in UTF-8, in pieces.

    Raises:
        ValueError: A number is not finite.
        TypeError: It is not a JSON value.
    """
    if isinstance(value, str) and len(value) > PIECE_CHARACTERS:
        yield b'"'
        for start in range(0, len(value), PIECE_CHARACTERS):
            yield encode(value[start : start + PIECE_CHARACTERS])[1:-1]
        yield b'"'
    elif not is_large(value):
        yield encode(value)
    elif isinstance(value, Mapping):
        yield b"{"
        yield from _join(_encode_members(value))
        yield b"}"
    else:
        yield b"["
        yield from _join(_encode_elements(value))
        yield b"]"


def encode(value: Any) -> bytes:
    """Encode a small value.

    Raises:
        ValueError: A number is not finite.
        TypeError: It is not a JSON value.
    """
    options: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False}
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:  # a lone surrogate travels as an escape
        return json.dumps(value, **options).encode()


def _encode_members(value: Mapping[str, Any]) -> Iterator[Iterable[bytes]]:
    items = iter(value.items())
    while group := dict(islice(items, _GROUP)):
        if not is_large(group):
            yield (encode(group)[1:-1],)
            continue
        for name, item in group.items():
            yield chain((encode(name), b":"), encode_in_pieces(item))


def _encode_elements(value: Iterable[Any]) -> Iterator[Iterable[bytes]]:
    items = iter(value)
    while group := list(islice(items, _GROUP)):
        if not is_large(group):
            yield (encode(group)[1:-1],)
            continue
        yield from map(encode_in_pieces, group)


def _join(parts: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    for index, part in enumerate(parts):
        if index:
            yield b","
        yield from part
