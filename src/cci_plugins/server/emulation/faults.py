"""Faults between a client and a pool, injected on purpose."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from cci_plugins.server.answers import sanitize_json

_HTML_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

# "-before" comes before anything is done. "-after" comes after the code ran, and loses its reply.
# "tail-lost" loses what a run wrote last, as was seen on Azure's shell pools.
FAULTS = (
    "429",
    "429-retry-after",
    "500-before",
    "500-after",
    "502-before",
    "502-after",
    "503-before",
    "503-after",
    "504-before",
    "504-after",
    "html-before",
    "html-after",
    "truncated-after",
    "missing-after",
    "cut-after",
    "reset-before",
    "reset-after",
    "hang-before",
    "lost",
    "rotate",
    "sse",
    "tail-lost",
)


@dataclass(frozen=True, slots=True)
class Faults:
    """Rate and kinds of the faults to inject.

    Attributes:
        rate: Share of the requests that get a fault, from 0 to 1.
        seed: Seed of the random choice. The same seed gives the same faults.
        kinds: The faults to choose from, out of `FAULTS`.
    """

    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = FAULTS


class FaultInjector:
    """Random choice of the faults of one server.

    Attributes:
        fault_counts: How often each fault happened.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._random = random.Random(faults.seed)  # noqa: S311 - it must be repeatable
        self.fault_counts: Counter[str] = Counter()

    def pick_fault(self) -> str | None:
        """Return the fault of the next request, or None."""
        if not self._faults.kinds or self._random.random() >= self._faults.rate:
            return None
        return self._random.choice(self._faults.kinds)


def build_refusal(fault: str) -> Response | None:
    """Return the answer of a fault that comes before anything is done, or None."""
    if fault == "429":
        return _build_too_many_requests({})
    if fault == "429-retry-after":
        return _build_too_many_requests({"retry-after": "1"})
    if fault == "html-before":
        return HTMLResponse(_HTML_PAGE)
    if fault.endswith("-before") and fault[:3].isdigit():
        return _build_server_error(int(fault[:3]))
    return None


def corrupt_answer(fault: str, body: bytes) -> Response | None:
    """Return what a fault makes of a good JSON answer, or None to break the connection off."""
    if fault == "html-after":
        return HTMLResponse(_HTML_PAGE)
    if fault[:3].isdigit():
        return _build_server_error(int(fault[:3]))
    if fault == "truncated-after":
        return Response(body[: len(body) // 2], media_type="application/json")
    change = _CHANGES.get(fault)
    return None if change is None else JSONResponse(_change_run_fields(json.loads(body), change))


def drop_tail(text: str) -> str:
    """Return output without its last line, which was written just before the run ended."""
    head, newline, _ = text.removesuffix("\n").rpartition("\n")
    return head + newline


def cut_bytes(text: str, limit: int) -> str:
    """Return the beginning of output that has at most `limit` bytes in UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def _change_run_fields(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a JSON answer with the object that has `stdout` changed, and no copy as text."""
    if isinstance(value, dict):
        if "stdout" in value:
            return change(value)
        return {
            name: item if name == "_meta" else _change_run_fields(item, change)
            for name, item in value.items()
            if name != "text"
        }
    if isinstance(value, list):
        return [_change_run_fields(item, change) for item in value]
    return sanitize_json(value)


_CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "missing-after": lambda _: {},
    "cut-after": lambda value: {**value, "stdout": ""},
    "tail-lost": lambda value: {**value, "stdout": drop_tail(value["stdout"])},
}


def _build_too_many_requests(headers: dict[str, str]) -> Response:
    flat = {"code": "TooManyRequests", "message": "Slow down."}
    return JSONResponse(flat, 429, headers)


def _build_server_error(status: int) -> Response:
    body = {"error": {"code": "InternalError", "message": "A part of the service failed."}}
    return JSONResponse(body, status)
