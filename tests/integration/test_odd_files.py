"""Files with odd names, and many files, on every pool and by every way out."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import CodeInterpreterError, UnsafeNameError
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.local.pool import LocalSessionPool

from ._emulated import emulated
from ._server import KEY, serving
from .test_cli_run import environment

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WRITE_ODD = r"""
import os
os.makedirs('d', exist_ok=True)
for name in (b'plain.csv', b'caf\xe9.csv', b'by\\windows.csv', b'two\nlines.csv'):
    for folder in (b'', b'd/'):
        open(folder + name, 'wb').write(b'x')
"""
ODD = {"by\\windows.csv", "caf\\xe9.csv", "two\\nlines.csv"}
NAMES = {folder + name for folder in ("", "d/") for name in ODD | {"plain.csv"}}
KINDS: list[dict[str, Any]] = [
    {},
    {"kind": "platform"},
    {"kind": "managed"},
    {"kind": "custom"},
    {"kind": "custom", "container": "executions"},
]


def name_kind(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values())) or "embedded"


@asynccontextmanager
async def open_pool(options: dict[str, Any]) -> AsyncIterator[SessionPool]:
    if not options:
        yield LocalSessionPool()
        return
    async with emulated(LocalSessionPool(), max_sessions=9, **options) as azure:
        yield azure.client()


@pytest.mark.quick("embedded", "platform")
@pytest.mark.parametrize("options", KINDS, ids=name_kind)
async def test_odd_names_are_listed_escaped_and_left_out_of_the_zip_with_a_warning(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(100):
        async with open_pool(options) as pool, CodeInterpreter(pool) as interpreter:
            session = interpreter.session("a")
            execution = await session.run_code(WRITE_ODD)
            assert execution.error is None
            reported = {file.name for file in execution.files}
            assert reported == NAMES, reported ^ NAMES
            assert {file.name for file in await session.files.list()} == NAMES
            listing = await session.run_code("import os; sorted(os.listdir('.'))")
            assert listing.error is None
            assert "plain.csv" in (listing.text or "")
            with caplog.at_level(logging.WARNING, "cci_plugins"):
                packed = await session.files.download("d")
            assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == ["d/plain.csv"]
            assert all(repr(f"d/{name}") in caplog.text for name in ODD)
            for name in ODD:
                with pytest.raises(UnsafeNameError):
                    await session.files.download(name)
            assert await session.files.download("plain.csv") == b"x"
            await session.run_code("os.remove('d/plain.csv')")
            with pytest.raises(CodeInterpreterError, match="not safe"):
                await session.files.download("d")


@pytest.mark.quick("2025-10-02-preview")
@pytest.mark.parametrize("version", ["2025-10-02-preview", "2024-02-02-preview"])
async def test_the_rest_api_lists_odd_names_and_shows_them_as_a_value(version: str) -> None:
    query = {"identifier": "session-1", "api-version": version}
    headers = {"authorization": f"Bearer {KEY}"}
    with anyio.fail_after(60):
        async with (
            serving(LocalSessionPool()) as url,
            httpx.AsyncClient(
                base_url=url.removesuffix("/mcp"), params=query, headers=headers, timeout=40
            ) as http,
        ):
            path, body = "/executions", {"code": f"{WRITE_ODD}\nsorted(os.listdir('.'))"}
            if version.startswith("2024"):
                path, body = "/code/execute", {"properties": body}  # type: ignore[dict-item]
            run = await http.post(path, json=body)
            assert run.status_code == 200, run.text
            value = run.json().get("properties") or run.json()["result"]
            value = value.get("executionResult", value.get("result"))
            assert "plain.csv" in value, value
            assert "caf\\udce9.csv" in value, value  # as Python shows it
            files = await http.get("/files")
            assert files.status_code == 200, files.text
            entries = [entry.get("properties", entry) for entry in files.json()["value"]]
            names = {entry.get("name", entry.get("filename")) for entry in entries}
            assert ODD | {"plain.csv"} <= names


def run_and_download(folder: Path, code: str, pattern: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cci_plugins", "run", code, "--download", pattern],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_cci_run_downloads_the_others_and_names_what_it_skips(tmp_path: Path) -> None:
    done = run_and_download(tmp_path, WRITE_ODD + "open('aux.csv', 'w')", "*.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain.csv").read_bytes() == b"x"
    assert (tmp_path / "d" / "plain.csv").exists()
    shown = "".join(done.stderr.split())
    assert all(repr(name) in shown for name in ODD | {"aux.csv"}), done.stderr


@pytest.mark.full
def test_cci_run_fails_if_it_can_download_nothing(tmp_path: Path) -> None:
    done = run_and_download(tmp_path, WRITE_ODD, "two*lines.csv")
    assert done.returncode != 0
    assert "two\\\\nlines.csv" in "".join(done.stderr.split())


async def test_a_folder_of_the_host_is_packed_without_names_that_are_not_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    folder.joinpath("caf\udce9.txt").write_text("b")
    async with CodeInterpreter(LocalSessionPool()) as interpreter:
        with caplog.at_level(logging.WARNING, "cci_plugins"):
            await interpreter.session("a").files.upload(folder)
        packed = await interpreter.session("a").files.download("folder.zip")
    assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == ["a.txt"]
    assert "leaves out" in caplog.text


@pytest.mark.quick("platform")
@pytest.mark.parametrize("options", [KINDS[0], KINDS[1], KINDS[4]], ids=name_kind)
async def test_a_new_file_beside_thousands_is_reported_and_every_file_is_listed(
    options: dict[str, Any],
) -> None:
    with anyio.fail_after(100):
        async with open_pool(options) as pool, CodeInterpreter(pool) as interpreter:
            session = interpreter.session("a")
            execution = await session.run_code(
                "import os\nos.mkdir('many')\n"
                "for n in range(3000): open(f'many/{n:04}.txt', 'w').close()\n"
                "os.mkdir('out'); open('out/result.csv', 'w').close()"
            )
            names = [file.name for file in execution.files]
            assert "out/result.csv" in names
            assert "many/2999.txt" in names
            assert (len(names), names) == (2000, sorted(names))
            assert any("1,001 older files" in note for note in execution.notes)
            execution = await session.run_code("open('out/later.csv', 'w').close()")
            assert [file.name for file in execution.files] == ["out/later.csv"]
            assert execution.notes == ()
            listed = [file.name for file in await session.files.list()]
            assert listed == sorted(listed)
            assert len(listed) == 3002
