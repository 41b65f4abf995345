"""Search of everything that the suite emits for secrets: logs, spans, errors and notebooks.

Loggers emit at DEBUG, OpenTelemetry exports to memory, and every exception and notebook of the
package is searched too. A test that leaks a planted secret or a signature fails.
"""

import logging
import re
from collections.abc import Iterator

import pytest

from cci_plugins import errors
from cci_plugins.core import notebook

LOGGERS = ("cci_plugins", "azure", "httpx", "httpcore", "urllib3", "aiohttp", "mcp", "stamina")
PLANTED = (
    "planted-key-of-the-pool",
    "planted-token-of-entra",
    "planted-4f1b6c0e9d7a-key-of-the-pool",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6",
)
SIGNATURE = re.compile(r"(?:\bsig|%26sig)(?:=|%3D)[A-Za-z0-9+/%]{16}", re.IGNORECASE)
_MARKERS = (*PLANTED, "sig")


class Watch(logging.Handler):
    """A handler that searches everything emitted and collects the leaks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def search(self, where: str, text: str) -> None:
        if not any(marker in text for marker in _MARKERS):
            return
        leaked = [secret for secret in PLANTED if secret in text]
        leaked += [match[0] for match in SIGNATURE.finditer(text)]
        if leaked:
            self.found.append(f"{where}: {leaked} in {text[:500]}")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except (TypeError, ValueError):
            text = f"{record.msg} {record.args}"
        self.search(f"the logger {record.name}", text)


watch = Watch()


def start() -> None:
    """Search all that is emitted, for the rest of this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(watch)
    _watch_errors()
    _watch_notebooks()
    _watch_spans()


def _watch_errors() -> None:
    real = errors.CodeInterpreterError.__init__

    def init(self: errors.CodeInterpreterError, *args: object, **options: object) -> None:
        real(self, *args, **options)  # type: ignore[arg-type]
        watch.search(type(self).__name__, f"{self} {getattr(self, 'hint', '')}")

    errors.CodeInterpreterError.__init__ = init  # type: ignore[method-assign]


def _watch_notebooks() -> None:
    real = notebook.Notebook.to_json

    def to_json(self: notebook.Notebook) -> str:
        text = real(self)
        watch.search("a notebook", text)
        return text

    notebook.Notebook.to_json = to_json  # type: ignore[method-assign]


def _watch_spans() -> None:
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
    except ImportError:
        return

    class Exporter(SpanExporter):
        def export(self, spans: object) -> None:  # type: ignore[override]
            for span in spans:  # type: ignore[attr-defined]
                assert isinstance(span, ReadableSpan)
                watch.search("a span", span.to_json())

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail the test that leaked a secret."""
    watch.found.clear()
    yield
    found, watch.found = watch.found, []
    assert not found, "\n".join(found)
