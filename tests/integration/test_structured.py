"""Tables and charts as data, made by real libraries in real kernels, on both kinds of pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool, Result, Table
from cci_plugins.pools import inside_data
from cci_plugins.structured import CHART, TABLE

from ._emulated import emulated

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[CodeInterpreter]:
    made = CodeInterpreter(LocalSessionPool(preload=()))
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
async def by_text() -> AsyncIterator[CodeInterpreter]:
    """A pool that answers in text only."""
    async with emulated(LocalSessionPool(preload=()), kind="platform") as pool:
        interpreter = CodeInterpreter(pool.client())
        yield interpreter
        await interpreter.aclose()


async def _shown(interpreter: CodeInterpreter, code: str) -> Result:
    execution = await interpreter.session("structured").run_code(code)
    assert execution.error is None, execution.error
    (result,) = execution.results
    return result


async def _table(interpreter: CodeInterpreter, code: str) -> Table:
    table = (await _shown(interpreter, code)).table
    assert table is not None
    return table


FRAME = """
import pandas as pd
pd.DataFrame({"n": range(1000), "x": [0.5, float("nan")] * 500, "t": pd.Timestamp("2026-01-02")})
"""
PLOT = """
import matplotlib.pyplot as plt
figure, (left, right) = plt.subplots(1, 2)
left.plot([1, 2, 3], [4.0, 5.0, 6.0], label="up")
left.scatter([1, 2], [7, 8])
left.set(title="Lines", xlabel="time", ylabel="value")
right.bar(["a", "b"], [3, 4])
plt.show()
"""


def test_both_sides_name_the_forms_alike() -> None:
    assert (inside_data.TABLE, inside_data.CHART) == (TABLE, CHART)


async def test_a_frame_comes_with_its_first_rows_its_types_and_its_whole_shape(
    interpreter: CodeInterpreter, by_text: CodeInterpreter
) -> None:
    for pool in (interpreter, by_text):
        table = await _table(pool, FRAME)
        assert (table.row_count, table.column_count, len(table.rows)) == (1000, 3, 50)
        assert not table.is_whole
        told = [(column.name, column.type) for column in table.columns]
        wanted = [("index", "integer"), ("n", "integer"), ("x", "number"), ("t", "datetime")]
        assert told == wanted
        assert [column.dtype for column in table.columns][1:3] == ["int64", "float64"]
        assert table.records()[1]["n"] == 1
        assert table.records()[1]["x"] is None


async def test_a_figure_comes_with_what_it_plots(
    interpreter: CodeInterpreter, by_text: CodeInterpreter
) -> None:
    for pool in (interpreter, by_text):
        shown = await _shown(pool, PLOT)
        assert shown.png is not None
        left, right = shown.charts
        assert (left.title, left.x_label, left.y_label) == ("Lines", "time", "value")
        line, points = left.series
        assert (line.kind, line.label, line.x, line.y) == ("line", "up", (1, 2, 3), (4, 5, 6))
        assert (points.kind, points.x, points.y) == ("scatter", (1, 2), (7, 8))
        (bars,) = right.series
        assert (bars.kind, bars.x, bars.y) == ("bar", ("a", "b"), (3, 4))


@pytest.mark.parametrize(
    ("code", "names", "first"),
    [
        ("pd.Series([1, 2], name='s')", ["index", "s"], (0, 1)),
        ("pd.DataFrame([[1, 2]], columns=['a', 'a'])", ["index", "a", "a.1"], (0, 1, 2)),
        (
            "pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([('a', 1), ('a', 2)]))",
            ["index", "a / 1", "a / 2"],
            (0, 1, 2),
        ),
        ("pd.DataFrame({'d': [__import__('decimal').Decimal('1.5')]})", ["index", "d"], (0, "1.5")),
        ("pd.DataFrame({'o': [{'k': [1]}]})", ["index", "o"], (0, {"k": [1]})),
        ("pd.DataFrame({'i': [float('inf'), 1]})", ["index", "i"], (0, None)),
    ],
)
async def test_frames_of_all_kinds(
    interpreter: CodeInterpreter, code: str, names: list[str], first: tuple[object, ...]
) -> None:
    table = await _table(interpreter, f"import pandas as pd\n{code}")
    assert [column.name for column in table.columns] == names
    assert table.rows[0] == first


async def test_a_frame_of_polars(interpreter: CodeInterpreter) -> None:
    pytest.importorskip("polars")
    code = (
        "import polars as pl, datetime as dt\n"
        "pl.DataFrame({'n': range(60), 'x': [float('nan')] * 60, "
        "'day': [dt.date(2026, 1, 2)] * 60, 'l': [[1]] * 60})"
    )
    table = await _table(interpreter, code)
    assert (table.row_count, table.column_count, len(table.rows)) == (60, 4, 50)
    told = [(column.name, column.type, column.dtype) for column in table.columns]
    assert told[:3] == [
        ("n", "integer", "Int64"),
        ("x", "number", "Float64"),
        ("day", "date", "Date"),
    ]
    assert table.rows[0] == (0, None, "2026-01-02", [1])


async def test_a_wide_or_heavy_frame_is_cut_and_says_so(interpreter: CodeInterpreter) -> None:
    wide = await _table(interpreter, "import pandas as pd\npd.DataFrame([range(500)])")
    assert (wide.column_count, len(wide.columns)) == (500, 101)
    heavy = await _table(
        interpreter, "import pandas as pd\npd.DataFrame({'t': ['x' * 20_000] * 50})"
    )
    assert (heavy.row_count, len(heavy.rows)) == (50, 12)
    execution = await interpreter.session("structured").run_code(
        "pd.DataFrame({'t': ['x' * 10**6]})"
    )
    assert execution.results[0].table is None
    assert "xxx" in (execution.results[0].text or "")


async def test_a_frame_that_cannot_be_read_is_still_shown(interpreter: CodeInterpreter) -> None:
    code = (
        "import pandas as pd\n"
        "class Odd(pd.DataFrame):\n"
        "    @property\n"
        "    def iloc(self): raise RuntimeError('no')\n"
        "Odd({'a': [1]})"
    )
    execution = await interpreter.session("structured").run_code(code)
    assert (execution.error, execution.stderr) == (None, "")
    assert execution.results[0].table is None


async def test_other_libraries_are_not_loaded(interpreter: CodeInterpreter) -> None:
    code = (
        "import sys\n[name for name in ('pandas', 'polars', 'matplotlib') if name in sys.modules]"
    )
    assert (await interpreter.session("plain").run_code(code)).text == "[]"


@pytest.mark.parametrize(
    "claim",
    [
        "x",
        {"data": []},
        {"schema": {"fields": [{"name": "a"}]}, "data": [1]},
        {"schema": {"fields": 3}, "data": []},
        {"schema": {"fields": []}, "data": [], "shape": ["a", "b"]},
    ],
)
def test_what_only_claims_to_be_a_table_is_none(claim: object) -> None:
    assert Result({TABLE: claim}).table is None


@pytest.mark.parametrize(
    "claim", [3, {"axes": 3}, {"axes": [{}, 1]}, {"axes": [{"series": [{"x": [1], "y": []}]}]}]
)
def test_what_only_claims_to_be_a_chart_is_left_out(claim: object) -> None:
    assert Result({CHART: claim}).charts == ()
