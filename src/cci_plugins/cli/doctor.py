"""`cci doctor`: checks from this machine to the pool, with a fix for each failure."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from . import console
from .console import ExitCode
from .settings_file import SettingsFileOption

if TYPE_CHECKING:
    from cci_plugins.doctor import Finding

_EXIT_CODES = {"local": ExitCode.CONFIGURATION, "auth": ExitCode.AUTHENTICATION}
_WIDTH = 8


def doctor(
    *,
    local_only: Annotated[
        bool, typer.Option("--local-only", help="Check only this machine.")
    ] = False,
    show_ids: Annotated[
        bool,
        typer.Option(
            "--show-ids",
            help="Show names and ids of your resources. By default they are hidden, so that you "
            "can share the report.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, max=31_536_000, metavar="SECONDS", help="Time limit of each check."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one line of JSON.")
    ] = False,
    env_file: SettingsFileOption = None,
) -> int:
    """Check everything from this machine to a run in the pool, and print a fix for each failure.

    The checks begin with this machine. Then come the sign-in to Azure, and the pool, storage
    account and Foundry project that the environment configures. The only changes are that the
    pool runs 1+1, and that a blob is written and deleted.
    """
    del env_file
    limit = None if timeout is None else timedelta(seconds=timeout)
    printer = _FindingPrinter(as_json=as_json)

    async def work() -> None:
        from cci_plugins.doctor import diagnose

        with console.show_activity("cci doctor") as show_activity:
            async for finding in diagnose(
                local_only=local_only, show_ids=show_ids, limit=limit, on_check=show_activity
            ):
                printer.add(finding)

    anyio.run(work)
    printer.end()
    return printer.get_exit_code()


class _FindingPrinter:
    """Printer of findings, one line each, with `fix: ...` on the next line.

    Consecutive skipped checks with the same reason share a line. As JSON, nothing is printed
    until the end.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._findings: list[Finding] = []
        self._skipped: list[Finding] = []

    def add(self, finding: Finding) -> None:
        """Print a finding."""
        self._findings.append(finding)
        if self._as_json:
            return
        if self._skipped and (
            finding.status != "skipped" or finding.message != self._skipped[0].message
        ):
            self._flush()
        if finding.status == "skipped":
            self._skipped.append(finding)
            return
        _print(finding.status, finding.id, finding.message)
        if finding.fix:
            console.write_stdout(f"{'':{_WIDTH}} fix: {finding.fix}\n")

    def end(self) -> None:
        """Print the remaining findings and the number of findings by status."""
        counts = Counter(one.status for one in self._findings)
        if self._as_json:
            report = {"findings": [_to_dict(one) for one in self._findings], "counts": counts}
            console.write_stdout(json.dumps(report) + "\n")
            return
        self._flush()
        console.print_message(", ".join(f"{number} {status}" for status, number in counts.items()))
        first_failure = next((one for one in self._findings if one.status == "failed"), None)
        if first_failure is not None:
            console.print_hint(first_failure.fix)

    def get_exit_code(self) -> ExitCode:
        """Return the exit code of the first failure. An unknown result is not a failure."""
        for one in self._findings:
            if one.status == "failed":
                return _EXIT_CODES.get(one.id.partition(".")[0], ExitCode.POOL_UNAVAILABLE)
        return ExitCode.OK

    def _flush(self) -> None:
        if self._skipped:
            names = ", ".join(one.id for one in self._skipped)
            _print("skipped", names, self._skipped[0].message)
            self._skipped = []


def _print(status: str, name: str, message: str) -> None:
    console.write_stdout(f"{status:{_WIDTH}} {name}: {message}\n")


def _to_dict(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "status": finding.status,
        "message": finding.message,
        "fix": finding.fix or None,
        "seconds": round(finding.duration.total_seconds(), 3),
    }
