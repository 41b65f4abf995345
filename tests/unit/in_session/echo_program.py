"""Program of the tests: it answers with its job."""

from typing import Any

from cci_plugins.in_session.program_support import write_answer

calls: list[Any] = []


def main(_: Any, marker: str, job: dict[str, Any]) -> None:
    calls.append(job.get("value"))
    write_answer(marker, job, f"text with {marker} in it")
