"""Messages about a run that outlives its request: `RunQuery`, `RunReport` and their JSON.

A run is held by the server of its session, under a name. A client starts it with one request, and
asks for it with further ones, which any replica of a gateway passes on. No request waits longer
than `MAX_WAIT`. Every message may be sent twice:

- A query to start a run of a known name only asks for that run.
- A query lists the calls that its sender knows (`RunQuery.known`), so that a report has the others
  again, if an earlier report was lost.
- An answer states where its text begins. A part that arrived before, and an answer to an unknown
  call, changes nothing.
- A report states where its output begins, so that the reader skips what it has.

Arguments and results of tools are JSON text, which nobody on the way parses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field

from cci_plugins.errors import ToolErrorKind
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.mcp_client.progress import StreamName
from cci_plugins.mcp_client.wire_model import Text, WireModel

from .tool_host import ToolBounds, ToolParameter, ToolSpec

HELD_KEY = "cci_plugins/held_run"  # in a request: the query. In its answer: the report
HOST_TOOLS_KEY = "cci_plugins/host_tools"  # in the server's experimental capabilities
BACKGROUND_KEY = "cci_plugins/background_runs"  # the same
MAX_WAIT = timedelta(seconds=60)  # below the limits of Foundry and of Azure's pools
RunState = Literal["running", "ended", "unknown"]
_MAX_TOOLS = 1_000
_MAX_SECONDS = 365 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """A part of the answer to one call.

    Attributes:
        call: Number of the call.
        text: The result as JSON text, or the message of a refusal.
        at: Characters of the answer before this part.
        is_last: Whether the answer is complete with it.
        error: Why the call was refused or has failed. None for a result.
    """

    call: int
    text: str
    at: int = 0
    is_last: bool = True
    error: ToolErrorKind | None = None


@dataclass(frozen=True, slots=True)
class RunQuery:
    """A request to start a run, or to ask for one.

    Attributes:
        wait: Longest wait in seconds for something to report.
        starts: Whether it starts the run, unless the name is known.
        cancels: Whether it ends the run.
        since: Characters of output that the sender has. None if it wants none.
        known: Numbers of the calls that the sender has.
        answers: Answers to calls.
        tools: The tools of the run, when it starts.
        bounds: Bounds of their calls, when it starts.
        is_background: Whether the run needs `BACKGROUND_KEY`, when it starts or is checked.
    """

    wait: float = 0.0
    starts: bool = False
    cancels: bool = False
    since: int | None = None
    known: tuple[int, ...] = ()
    answers: tuple[ToolAnswer, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    bounds: ToolBounds | None = None
    is_background: bool = False

    def dump(self) -> dict[str, Any]:
        """Write the query as JSON."""
        return {
            "wait": self.wait,
            "starts": self.starts,
            "cancels": self.cancels,
            "since": self.since,
            "known": list(self.known),
            "answers": [_to_camel_case(asdict(answer)) for answer in self.answers],
            "tools": [_dump_spec(spec) for spec in self.tools],
            "bounds": None if self.bounds is None else _dump_bounds(self.bounds),
            "isBackground": self.is_background,
        }


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that waits for its answer. Name and arguments are what the code sent."""

    number: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the server knows of a run.

    Attributes:
        state: `ended` if the answer of the request has the execution or the error, `unknown` if
            the server has no run of this name.
        calls: Calls that the query did not know, perhaps not all of them.
        gone: Calls of the query that nobody waits for any longer.
        at: Characters of output before `output`.
        output: Output so far, in order.
    """

    state: RunState
    calls: tuple[PendingCall, ...] = ()
    gone: tuple[int, ...] = ()
    at: int = 0
    output: tuple[tuple[StreamName, str], ...] = field(default=(), repr=False)

    def dump(self) -> dict[str, Any]:
        """Write the report as JSON."""
        return {
            "state": self.state,
            "calls": [asdict(call) for call in self.calls],
            "gone": list(self.gone),
            "at": self.at,
            "output": [{"stream": stream, "text": text} for stream, text in self.output],
        }


@dataclass(frozen=True, slots=True)
class RelayedQuery:
    """A query that a gateway passes on as it came.

    Attributes:
        code: The code, which is empty unless the query starts a run.
        timeout: Longest run.
        wait: Longest wait for something to report.
        meta: `_meta` of the request, with the name and the query.
        query: The query, for what the server must be able to do.
    """

    code: str
    timeout: timedelta
    wait: timedelta
    meta: Mapping[str, Any]
    query: RunQuery


class RunRelay(ABC):
    """A pool that passes queries on to the server which holds the run."""

    @abstractmethod
    async def relay_run(self, session_id: str, query: RelayedQuery) -> ToolResult:
        """Send a query once, and return the server's answer as it is.

        Raises:
            ConfigurationError: The sessions cannot do what the query asks. Nothing was sent.
        """


def load_query(value: object) -> RunQuery:
    """Read a query that `RunQuery.dump` wrote.

    Raises:
        ProtocolError: The value has another form.
    """
    query = _Query.load(value, "query about a run")
    return RunQuery(
        wait=query.wait,
        starts=query.starts,
        cancels=query.cancels,
        since=query.since,
        known=tuple(query.known),
        answers=tuple(ToolAnswer(**dict(answer)) for answer in query.answers),
        tools=tuple(_build_spec(spec) for spec in query.tools),
        bounds=None if query.bounds is None else _build_bounds(query.bounds),
        is_background=query.is_background,
    )


def load_report(value: object) -> RunReport:
    """Read a report that `RunReport.dump` wrote.

    Raises:
        ProtocolError: The value has another form.
    """
    report = _Report.load(value, "report of a run")
    return RunReport(
        report.state,
        tuple(PendingCall(**dict(call)) for call in report.calls),
        tuple(report.gone),
        report.at,
        tuple((chunk.stream, chunk.text) for chunk in report.output),
    )


class _Answer(WireModel):
    call: int
    text: Text
    at: int = Field(default=0, ge=0)
    is_last: bool = True
    error: ToolErrorKind | None = None


class _Parameter(WireModel):
    name: Text
    annotation: Text
    default: Text | None = None


class _Spec(WireModel):
    name: Text
    parameters: list[_Parameter]
    returns: Text
    documentation: Text
    accepts_more: bool


class _Bounds(WireModel):
    calls: int = Field(ge=0)
    at_once: int = Field(ge=1)
    call_bytes: int = Field(ge=0)
    total_bytes: int = Field(ge=0)
    call_timeout: float = Field(ge=0, le=_MAX_SECONDS)
    wait: float = Field(ge=0, le=_MAX_SECONDS)


class _Query(WireModel):
    wait: float = Field(default=0.0, ge=0, le=_MAX_SECONDS)
    starts: bool = False
    cancels: bool = False
    since: int | None = Field(default=None, ge=0)
    known: list[int] = Field(default=[])
    answers: list[_Answer] = Field(default=[])
    tools: list[_Spec] = Field(default=[], max_length=_MAX_TOOLS)
    bounds: _Bounds | None = None
    is_background: bool = False


class _Call(WireModel):
    number: int
    name: Text
    arguments: Text


class _Chunk(WireModel):
    stream: StreamName
    text: Text


class _Report(WireModel):
    state: RunState
    calls: list[_Call] = Field(default=[])
    gone: list[int] = Field(default=[])
    at: int = Field(default=0, ge=0)
    output: list[_Chunk] = Field(default=[])


def _to_camel_case(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer under their names in JSON."""
    return {"isLast" if name == "is_last" else name: value for name, value in fields.items()}


def _dump_spec(spec: ToolSpec) -> dict[str, Any]:
    fields = asdict(spec)
    return fields | {"acceptsMore": fields.pop("accepts_more")}


def _build_spec(spec: _Spec) -> ToolSpec:
    parameters = tuple(ToolParameter(**dict(one)) for one in spec.parameters)
    return ToolSpec(
        spec.name, parameters, spec.returns, spec.documentation, accepts_more=spec.accepts_more
    )


def _dump_bounds(bounds: ToolBounds) -> dict[str, Any]:
    return {
        "calls": bounds.calls,
        "atOnce": bounds.at_once,
        "callBytes": bounds.call_bytes,
        "totalBytes": bounds.total_bytes,
        "callTimeout": bounds.call_timeout.total_seconds(),
        "wait": bounds.wait.total_seconds(),
    }


def _build_bounds(bounds: _Bounds) -> ToolBounds:
    return ToolBounds(
        calls=bounds.calls,
        at_once=bounds.at_once,
        call_bytes=bounds.call_bytes,
        total_bytes=bounds.total_bytes,
        call_timeout=timedelta(seconds=bounds.call_timeout),
        wait=timedelta(seconds=bounds.wait),
    )
