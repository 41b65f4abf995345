"""The arguments of the public API: session keys, names of files, `with` and `async with`."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from cci_plugins import CodeInterpreter, sync
from cci_plugins.errors import ConfigurationError, UnsafeNameError
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


async def test_a_session_key_is_text_a_number_or_a_uuid() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        for key in (0, 7, UUID(int=7), "alice"):
            assert interpreter.session(key) is interpreter.session(str(key))
            with interpreter.use_session(key) as session:
                assert interpreter.session() is session is interpreter.session(key)
        assert interpreter.session(0) is not interpreter.session()
        assert interpreter.session("") is interpreter.session()
        assert interpreter.session("\ud800").id != interpreter.session("\ud801").id


@pytest.mark.parametrize("key", [True, 1.5, b"alice", ("a", 1), object()])
async def test_a_session_key_of_another_type_is_refused(key: object) -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        with pytest.raises(ConfigurationError, match=type(key).__name__):
            interpreter.session(key)  # type: ignore[arg-type]
        with (
            pytest.raises(ConfigurationError, match=type(key).__name__),
            interpreter.use_session(key),  # type: ignore[arg-type]
        ):
            pass


async def test_every_file_method_takes_the_whole_path_in_the_session(tmp_path: Path) -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        files = interpreter.session("alice").files
        assert (await files.upload(b"a", name="/mnt/data/out/x.csv")).name == "out/x.csv"
        assert await files.download("/mnt/data/out/x.csv") == b"a"
        path = await files.download("/mnt/data/out/x.csv", to=f"{tmp_path}/")
        assert path == tmp_path / "x.csv"
        assert [chunk async for chunk in files.stream("/mnt/data/out/x.csv")] == [b"a"]
        await files.remove("/mnt/data/out/x.csv")
        assert await files.list() == []
        for name in ("/mnt/data/../etc/passwd", "/mnt/data", "/etc/passwd", 7):
            with pytest.raises(UnsafeNameError):
                await files.download(name)  # type: ignore[call-overload]


async def test_the_wrong_one_of_with_and_async_with_names_the_right_class() -> None:
    interpreter = CodeInterpreter(FakeSessionPool())
    with pytest.raises(ConfigurationError, match=r"cci_plugins\.sync"), interpreter:
        pass
    blocking = sync.CodeInterpreter(FakeSessionPool())
    with pytest.raises(TypeError, match="needs 'with'"):
        async with blocking:
            pass


async def test_code_that_is_too_long_is_refused_with_that_reason_before_it_runs() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        for code in ("#" * 49_500_000, "\n" * 25_000_000):
            with pytest.raises(ConfigurationError, match=r"the code has .* bytes") as caught:
                await interpreter.run_code(code)
            assert "upload the data as a file" in str(caught.value.hint)
        assert pool.calls == []
        await interpreter.run_code("#" * 40_000_000)
        assert len(pool.calls) == 1
