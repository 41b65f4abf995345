"""Tables and charts of a result as data.

A session sends a DataFrame as a Table Schema resource and a figure as a description of its axes,
in addition to their HTML and image. Code in a session can send anything under these MIME types,
so the readers check every part and never raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OPTIONAL_TEXTS = ("figure_title", "x_unit", "y_unit", "x_scale", "y_scale")
_MAX_CELLS = 1_000_000  # of a table, because code can claim any number
TABLE = "application/vnd.dataresource+json"
CHART = "application/vnd.cci-plugins.chart+json"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name, as text.
        type: Its type in Table Schema: `integer`, `number`, `boolean`, `string`, `datetime`, ...
            (specs.frictionlessdata.io/table-schema).
        dtype: Its type in the library, such as `int64`, or empty for an index.
    """

    name: str
    type: str
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The first rows of a DataFrame or a Series, and its whole shape.

    Attributes:
        columns: The columns that were sent. The index of pandas comes first.
        rows: At most the first 50 rows, each with a JSON value for every column. Text of more
            than 10,000 characters is cut and ends with an ellipsis.
        row_count: Rows of the whole DataFrame.
        column_count: Columns of the whole DataFrame, without an index.

    Example:
        ```python
        from cci_plugins import Column, Table

        columns = (Column("year", "integer"), Column("sales", "number"))
        table = Table(columns, rows=((2026, 1.5),), row_count=1, column_count=2)
        print(table.records())
        ```
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    row_count: int
    column_count: int

    @property
    def is_whole(self) -> bool:
        """Whether all rows were sent."""
        return len(self.rows) == self.row_count

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dicts with the names of the columns as keys."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """One series of a chart.

    Attributes:
        kind: `line`, `errorbar`, `scatter`, `bar`, `barh`, `box` or `pie`.
        label: Its name in the legend, or empty.
        x: Positions, dates or categories, at most 1,000. For a pie, the labels.
        y: As many values. For a pie, the parts, each between 0 and 1. For a box, dicts with
            `low`, `q1`, `median`, `q3`, `high` and `outliers`.
        point_count: Points of the whole series.
        x_error: For each point how far its error bar reaches below and above it along x, or
            empty without error bars.
        y_error: The same along y.
    """

    kind: str
    label: str
    x: tuple[Any, ...]
    y: tuple[Any, ...]
    point_count: int
    x_error: tuple[Any, ...] = ()
    y_error: tuple[Any, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all points were sent."""
        return len(self.x) == self.point_count


@dataclass(frozen=True, slots=True)
class Chart:
    """The data of one pair of axes.

    Attributes:
        title: Title of the axes, or else of the figure.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        series: The series that were plotted.
        figure_title: Title of the whole figure, or empty.
        x_unit: Unit of the x axis, as its label gives it in parentheses or brackets, or empty.
        y_unit: Unit of the y axis.
        x_scale: `linear`, `datetime`, `categorical`, `log` or another name of matplotlib.
        y_scale: Scale of the y axis.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[ChartSeries, ...]
    figure_title: str = ""
    x_unit: str = ""
    y_unit: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"


def read_table(value: object) -> Table | None:
    """Read a table from its Table Schema resource. Return None if the resource is invalid."""
    try:
        return _parse_table(value)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def read_charts(value: object) -> tuple[Chart, ...]:
    """Read the charts of a figure. Invalid ones are left out."""
    axes = value.get("axes") if isinstance(value, Mapping) else None
    return tuple(_parse_charts(axes)) if isinstance(axes, Sequence) else ()


def _parse_table(value: Any) -> Table:
    fields = value["schema"]["fields"]
    columns = tuple(
        Column(str(field["name"]), str(field.get("type", "any")), str(field.get("dtype", "")))
        for field in fields
    )
    names = [field["name"] for field in fields]
    if len(names) * len(value["data"]) > _MAX_CELLS:
        raise ValueError("too many cells")
    rows = tuple(tuple(row.get(name) for name in names) for row in value["data"])
    height, width = value.get("shape") or (len(rows), len(columns))
    return Table(columns, rows, max(int(height), len(rows)), int(width))


def _parse_charts(axes: Sequence[Any]) -> Iterator[Chart]:
    for one in axes:
        try:
            series = tuple(_parse_series(each) for each in one["series"])
            title, x, y = (str(one.get(name, "")) for name in ("title", "x_label", "y_label"))
            more = {name: str(one[name]) for name in _OPTIONAL_TEXTS if name in one}
            yield Chart(title, x, y, series, **more)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            continue


def _parse_series(value: Any) -> ChartSeries:
    x, y = tuple(value["x"]), tuple(value["y"])
    if len(x) != len(y):
        raise ValueError("x and y differ in length")
    size = max(int(value.get("size", 0)), len(x))
    errors = {name: tuple(value[name]) for name in ("x_error", "y_error") if name in value}
    return ChartSeries(str(value["kind"]), str(value.get("label", "")), x, y, size, **errors)
