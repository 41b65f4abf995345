"""Tests of the data of tables and charts, with real libraries, kernels and both kinds of pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool, Result, Table
from cci_plugins.common.structured import CHART, TABLE
from cci_plugins.in_session import charts, tables

from ._emulated import emulated

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
FULL = pytest.mark.full


@pytest.fixture(scope="module")
def interpreter() -> Iterator[CodeInterpreter]:
    opened = CodeInterpreter(LocalSessionPool(preload=()))
    yield opened
    asyncio.run(opened.aclose())


@pytest.fixture(scope="module")
async def by_text(anyio_backend: str) -> AsyncIterator[CodeInterpreter]:
    """An interpreter on a pool that answers in text only."""
    async with emulated(LocalSessionPool(preload=()), kind="platform") as pool:
        interpreter = CodeInterpreter(pool.client())
        yield interpreter
        await interpreter.aclose()


async def _display(interpreter: CodeInterpreter, code: str) -> Result:
    execution = await interpreter.session("structured").run_code(code)
    assert execution.error is None, execution.error
    (result,) = execution.results
    return result


async def _display_table(interpreter: CodeInterpreter, code: str) -> Table:
    table = (await _display(interpreter, code)).table
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


def test_both_sides_use_the_same_mime_types() -> None:
    assert (tables.TABLE, charts.CHART) == (TABLE, CHART)


async def test_a_frame_arrives_with_its_first_rows_its_types_and_its_whole_shape(
    interpreter: CodeInterpreter, by_text: CodeInterpreter
) -> None:
    for pool in (interpreter, by_text):
        table = await _display_table(pool, FRAME)
        assert (table.row_count, table.column_count, len(table.rows)) == (1000, 3, 50)
        assert not table.is_whole
        columns = [(column.name, column.type) for column in table.columns]
        assert columns == [
            ("index", "integer"),
            ("n", "integer"),
            ("x", "number"),
            ("t", "datetime"),
        ]
        assert [column.dtype for column in table.columns][1:3] == ["int64", "float64"]
        assert table.records()[1]["n"] == 1
        assert table.records()[1]["x"] is None


async def _check_figure(interpreter: CodeInterpreter) -> None:
    result = await _display(interpreter, PLOT)
    assert result.png is not None
    left, right = result.charts
    assert (left.title, left.x_label, left.y_label) == ("Lines", "time", "value")
    line, points = left.series
    assert (line.kind, line.label, line.x, line.y) == ("line", "up", (1, 2, 3), (4, 5, 6))
    assert (points.kind, points.x, points.y) == ("scatter", (1, 2), (7, 8))
    (bars,) = right.series
    assert (bars.kind, bars.x, bars.y) == ("bar", ("a", "b"), (3, 4))


async def test_a_figure_arrives_with_the_data_it_plots(interpreter: CodeInterpreter) -> None:
    await _check_figure(interpreter)


@pytest.mark.full
async def test_a_figure_arrives_in_text_with_the_data_it_plots(by_text: CodeInterpreter) -> None:
    await _check_figure(by_text)


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
        (
            "pd.DataFrame([[1, 2, 3]], columns=['a', 'a', 'a.1'])",
            ["index", "a", "a.2", "a.1"],
            (0, 1, 2, 3),
        ),
        ("pd.DataFrame({'index': [5]})", ["index.1", "index"], (0, 5)),
        ("pd.DataFrame({'to_frame': [1]})", ["index", "to_frame"], (0, 1)),
        (
            "pd.DataFrame({'a': [1]}, index=pd.MultiIndex.from_tuples([(7, 8)], names=[1, 0]))",
            ["1", "0", "a"],
            (7, 8, 1),
        ),
        ("pd.DataFrame({'s': ['x'] * 30 + ['\\ud800'] + ['x'] * 70})", ["index", "s"], (0, "x")),
        ("pd.DataFrame({'o': [pd.NA, 1]})", ["index", "o"], (0, None)),
        ("pd.DataFrame({'k': [5]}, index=pd.Index([7], name='k'))", ["k.1", "k"], (7, 5)),
        ("pd.DataFrame({'b': [b'\\xff']})", ["index", "b"], (0, "b'\\xff'")),
        ("pd.DataFrame({'p': pd.interval_range(0, 1)})", ["index", "p"], (0, "(0, 1]")),
        ("pd.DataFrame({'d': pd.to_timedelta([1.5], 's')})", ["index", "d"], (0, "PT1.5S")),
        ("pd.DataFrame({'t': [pd.NaT], 'i': [pd.NA]})", ["index", "t", "i"], (0, None, None)),
        ("pd.DataFrame({'f': [0.1 + 0.2]})", ["index", "f"], (0, 0.1 + 0.2)),
        ("pd.DataFrame({'n': [2**100]})", ["index", "n"], (0, str(2**100))),
        ("pd.Series([pd.Series([1, 2]).to_numpy()], name='a')", ["index", "a"], (0, [1, 2])),
    ],
)
async def test_frames_of_all_kinds(
    interpreter: CodeInterpreter, code: str, names: list[str], first: tuple[object, ...]
) -> None:
    table = await _display_table(interpreter, f"import pandas as pd\n{code}")
    assert [column.name for column in table.columns] == names
    assert table.rows[0] == first


async def test_a_frame_of_polars(interpreter: CodeInterpreter) -> None:
    pytest.importorskip("polars")
    code = (
        "import polars as pl, datetime as dt\n"
        "pl.DataFrame({'n': range(60), 'x': [float('nan')] * 60, "
        "'day': [dt.date(2026, 1, 2)] * 60, 'l': [[1]] * 60})"
    )
    table = await _display_table(interpreter, code)
    assert (table.row_count, table.column_count, len(table.rows)) == (60, 4, 50)
    columns = [(column.name, column.type, column.dtype) for column in table.columns]
    assert columns[:3] == [
        ("n", "integer", "Int64"),
        ("x", "number", "Float64"),
        ("day", "date", "Date"),
    ]
    assert table.rows[0] == (0, None, "2026-01-02", [1])


async def test_a_wide_or_large_frame_is_cut_and_marked(interpreter: CodeInterpreter) -> None:
    wide = await _display_table(interpreter, "import pandas as pd\npd.DataFrame([range(500)])")
    assert (wide.column_count, len(wide.columns)) == (500, 101)
    heavy = await _display_table(
        interpreter, "import pandas as pd\npd.DataFrame({'t': ['x' * 20_000] * 50})"
    )
    assert (heavy.row_count, len(heavy.rows)) == (50, 25)
    (_, cut) = heavy.rows[0]
    assert cut == "x" * 10_000 + "\N{HORIZONTAL ELLIPSIS}"
    long = await _display_table(interpreter, "pd.Series([list(range(10**6))])")
    assert long.rows[0][1] == [*range(1000), "\N{HORIZONTAL ELLIPSIS}"]
    dense = "pd.DataFrame({'t': [[['x' * 9000] * 100]]})"
    execution = await interpreter.session("structured").run_code(dense)
    assert execution.results[0].table is None
    assert "xxx" in (execution.results[0].text or "")


async def _display_more_than_the_budget(interpreter: CodeInterpreter) -> None:
    display = "display(pd.DataFrame({'t': ['x' * 5_000] * 50}))"
    code = f"import pandas as pd\nfor _ in range(30): {display}"
    for _ in range(2):  # each run has its own budget
        execution = await interpreter.session("structured").run_code(code)
        has_table = [result.table is not None for result in execution.results]
        assert (len(has_table), sum(has_table), has_table[0]) == (30, 17, True)


async def test_the_table_data_of_one_run_leaves_budget_for_what_it_displays(
    interpreter: CodeInterpreter,
) -> None:
    await _display_more_than_the_budget(interpreter)


@pytest.mark.full
async def test_the_table_data_leaves_budget_in_a_pool_that_answers_in_text(
    by_text: CodeInterpreter,
) -> None:
    await _display_more_than_the_budget(by_text)


async def test_objects_that_are_not_tables_are_not_touched(interpreter: CodeInterpreter) -> None:
    code = (
        "class Odd:\n"
        "    def __getattr__(self, name):\n"
        "        if 'cci' in name or 'resource' in name: print(name)\n"
        "        raise AttributeError\n"
        "display(Odd())"
    )
    execution = await interpreter.session("structured").run_code(code)
    assert (execution.error, execution.stdout) == (None, "")


async def test_pandas_options_do_not_disable_tables(interpreter: CodeInterpreter) -> None:
    name = "'display.html.table_schema'"
    code = f"import pandas as pd\npd.set_option({name}, True)\npd.reset_option({name})\n"
    assert (await _display_table(interpreter, f"{code}pd.DataFrame({{'a': [1]}})")).row_count == 1


async def test_the_type_of_objects_is_that_of_their_json_values(
    interpreter: CodeInterpreter,
) -> None:
    code = "import pandas as pd\npd.DataFrame({'l': [[1]], 't': ['x'], 'c': pd.Categorical([1])})"
    types = [column.type for column in (await _display_table(interpreter, code)).columns]
    assert types == ["integer", "any", "string", "integer"]


async def test_a_frame_that_cannot_be_read_is_still_displayed(interpreter: CodeInterpreter) -> None:
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


DATES = ("2026-01-01T00:00:00", "2026-01-02T00:00:00")


@pytest.mark.parametrize(
    ("code", "kind", "x", "y"),
    [
        ("plt.bar(pd.date_range('2026-01-01', periods=2), [3, 4])", "bar", DATES, (3, 4)),
        pytest.param(
            "plt.scatter(pd.date_range('2026-01-01', periods=2), [3, 4])",
            "scatter",
            DATES,
            (3, 4),
            marks=FULL,
        ),
        pytest.param("plt.scatter(['a', 'b'], [3, 4])", "scatter", ("a", "b"), (3, 4), marks=FULL),
        ("plt.barh(['a', 'b'], [3, 4])", "barh", ("a", "b"), (3, 4)),
        (
            "pd.Series([3, 4], index=pd.date_range('2026-01', periods=2, freq='MS')).plot()",
            "line",
            ("2026-01", "2026-02"),
            (3, 4),
        ),
        ("plt.plot([0, 1], [3, 4]); plt.xticks([0, 1], ['a', 'b'])", "line", ("a", "b"), (3, 4)),
        pytest.param(
            "plt.bar([0.2, 1.2], [3, 4]); plt.xticks([0, 1], ['a', 'b'])",
            "bar",
            ("a", "b"),
            (3, 4),
            marks=FULL,
        ),
        pytest.param(
            "plt.bar([0, 1], [3, 4]); plt.gca().xaxis.set_major_formatter('{x} EUR')",
            "bar",
            (0, 1),
            (3, 4),
            marks=FULL,
        ),
        ("plt.plot(np.ma.masked_equal([3, 0, 4], 0))", "line", (0, 1, 2), (3, None, 4)),
        ("plt.errorbar([0, 1], [3, 4], yerr=1, capsize=2)", "errorbar", (0, 1), (3, 4)),
        pytest.param(
            "plt.plot([0, 1], [3, 4]); plt.axhline(2)", "line", (0, 1), (3, 4), marks=FULL
        ),
        pytest.param("plt.plot([], label='a'); plt.plot([0], [3])", "line", (0,), (3,), marks=FULL),
        pytest.param(
            "plt.plot(np.array(['2026-01-01', '2026-01-02'], 'M8[ns]'), [3, 4])",
            "line",
            DATES,
            (3, 4),
            marks=FULL,
        ),
        ("plt.pie([1, 3], labels=['a', 'b'])", "pie", ("a", "b"), (0.25, 0.75)),
    ],
)
async def test_series_arrive_as_they_were_plotted(
    interpreter: CodeInterpreter, code: str, kind: str, x: object, y: object
) -> None:
    imports = "import matplotlib.pyplot as plt, numpy as np, pandas as pd\n"
    (chart,) = (await _display(interpreter, f"{imports}{code}\nplt.show()")).charts
    (series,) = chart.series
    assert (series.kind, series.x, series.y) == (kind, x, y)
    assert series.is_whole


async def test_projected_values_are_not_reported(interpreter: CodeInterpreter) -> None:
    code = "import matplotlib.pyplot as plt\nplt.subplot(projection='3d').plot([1], [2], [3])\n"
    result = await _display(interpreter, code + "plt.show()")
    assert result.png is not None
    assert result.charts == ()


async def test_many_points_are_cut_and_counted(interpreter: CodeInterpreter) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot(range(5000)); plt.show()"
    ((line,),) = [chart.series for chart in (await _display(interpreter, code)).charts]
    assert (len(line.x), line.point_count, line.is_whole) == (1000, 5000, False)
    many = "for at in range(40): plt.plot([value / 700 for value in range(1000)])\nplt.show()"
    ((first, *others),) = [chart.series for chart in (await _display(interpreter, many)).charts]
    assert len(others) == 39
    assert (len(first.x), first.point_count) == (250, 1000)


@pytest.mark.parametrize(
    "claim",
    [
        "x",
        {"data": []},
        {"schema": {"fields": [{"name": "a"}]}, "data": [1]},
        {"schema": {"fields": 3}, "data": []},
        {"schema": {"fields": []}, "data": [], "shape": ["a", "b"]},
        {"schema": {"fields": []}, "data": [], "shape": [float("inf"), 1]},
        {"schema": {"fields": [{"name": "a"}] * 2_000}, "data": [{}] * 2_000},
    ],
)
def test_an_invalid_table_is_read_as_none(claim: object) -> None:
    assert Result({TABLE: claim}).table is None


@pytest.mark.parametrize(
    "claim", [3, {"axes": 3}, {"axes": [{}, 1]}, {"axes": [{"series": [{"x": [1], "y": []}]}]}]
)
def test_an_invalid_chart_is_skipped(claim: object) -> None:
    assert Result({CHART: claim}).charts == ()
