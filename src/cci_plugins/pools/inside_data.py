"""DataFrames and figures as data beside their pictures; sent as source, standard library only.

The libraries are named, never imported: what code did not load costs nothing.
"""

from __future__ import annotations

import json
import math
from typing import Any

ROWS, COLUMNS, BYTES = 50, 100, 256 << 10
POINTS, AXES, SERIES = 1_000, 16, 50
TABLE = "application/vnd.dataresource+json"
CHART = "application/vnd.cci-plugins.chart+json"
# The types of polars by the beginning of their names.
KINDS = {
    "Int": "integer",
    "UInt": "integer",
    "Float": "number",
    "Decimal": "number",
    "Boolean": "boolean",
    "Datetime": "datetime",
    "Date": "date",
    "Time": "time",
    "Duration": "duration",
    "List": "array",
    "Array": "array",
    "Struct": "object",
}


def fitting(make: Any, frame: Any) -> Any:
    """A table of as many first rows as fit; None when not even one does, or it cannot be told."""
    rows = ROWS
    try:
        while rows:
            resource = make(frame, rows)
            if len(json.dumps(resource)) <= BYTES:
                return resource
            rows //= 2
    except Exception:  # noqa: BLE001 - the picture is still shown; a subclass may raise anything
        return None
    return None


def pandas_table(frame: Any) -> Any:
    """A pandas DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fitting(pandas_rows, frame.to_frame() if hasattr(frame, "to_frame") else frame)


def pandas_rows(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame."""
    head = frame.iloc[:rows, :COLUMNS].copy()
    head.columns = unique([name_of(name) for name in head.columns])
    try:
        resource = json.loads(head.to_json(orient="table", default_handler=str))
    except (LookupError, NotImplementedError, TypeError, ValueError):  # its index, or one's name
        head = head.reset_index(drop=True)
        resource = json.loads(head.to_json(orient="table", default_handler=str))
    dtypes = [str(dtype) for dtype in head.dtypes]
    fields = resource["schema"]["fields"]
    for field, dtype in zip(fields[len(fields) - len(dtypes) :], dtypes):  # noqa: B905 - the same
        field["dtype"] = dtype
    resource["shape"] = list(frame.shape)
    return resource


def polars_table(frame: Any) -> Any:
    """A polars DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fitting(polars_rows, frame.to_frame() if hasattr(frame, "to_frame") else frame)


def polars_rows(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame."""
    names = frame.columns[:COLUMNS]
    head = frame.select(names).head(rows)
    fields = [
        {"name": name, "type": kind_of(str(dtype)), "dtype": str(dtype)}
        for name, dtype in head.schema.items()
    ]
    data = [{name: plain(value) for name, value in row.items()} for row in head.to_dicts()]
    return {"schema": {"fields": fields}, "data": data, "shape": [frame.height, frame.width]}


def kind_of(dtype: str) -> str:
    """A type of polars as Table Schema has it."""
    return next((kind for start, kind in KINDS.items() if dtype.startswith(start)), "string")


def name_of(name: Any) -> str:
    """A column's name as text; its levels in a row."""
    return " / ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def unique(names: list[str]) -> list[str]:
    """Names of which none is there twice."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        made.append(f"{name}.{seen[name]}" if seen[name] else name)
    return made


def plain(value: Any) -> Any:
    """A value as JSON has it; text for what it has not."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # of numpy
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    tell = getattr(value, "isoformat", None)
    return str(value) if tell is None else tell()


def chart(figure: Any) -> Any:
    """What a matplotlib figure plots; None when that cannot be told."""
    try:
        axes = [axes_data(one, figure) for one in figure.axes[:AXES]]
        found = {"library": "matplotlib", "axes": [one for one in axes if one["series"]]}
        return found if found["axes"] and len(json.dumps(found)) <= BYTES else None
    except Exception:  # noqa: BLE001 - the picture is still shown
        return None


def axes_data(axes: Any, figure: Any) -> dict[str, Any]:
    """Titles and series of one pair of axes."""
    lines = [
        series("line", line, line.get_xdata(orig=True), line.get_ydata(orig=True))
        for line in axes.lines[:SERIES]
    ]
    points = [
        series("scatter", one, *zip(*one.get_offsets()))  # noqa: B905 - pairs
        for one in axes.collections[:SERIES]
        if type(one).__name__ == "PathCollection" and len(one.get_offsets())
    ]
    bars = [bar(axes, one) for one in axes.containers[:SERIES] if hasattr(one, "patches")]
    above = figure._suptitle.get_text() if figure._suptitle is not None else ""  # noqa: SLF001
    return {
        "title": axes.get_title() or above,
        "x_label": axes.get_xlabel(),
        "y_label": axes.get_ylabel(),
        "series": [*lines, *points, *bars],
    }


def bar(axes: Any, container: Any) -> dict[str, Any]:
    """A series of bars, by their categories where the axis names them."""
    lying = getattr(container, "orientation", None) == "horizontal"
    patches = container.patches
    if lying:
        at = [patch.get_y() + patch.get_height() / 2 for patch in patches]
        lengths, axis = [patch.get_width() for patch in patches], axes.yaxis
    else:
        at = [patch.get_x() + patch.get_width() / 2 for patch in patches]
        lengths, axis = [patch.get_height() for patch in patches], axes.xaxis
    names = [label.get_text() for label in axis.get_ticklabels()]
    named = len(names) == len(at) and all(names) and not all(map(is_number, names))
    return series("barh" if lying else "bar", container, names if named else at, lengths)


def is_number(text: str) -> bool:
    """Whether a tick is just its place."""
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return False
    return True


def series(kind: str, artist: Any, x: Any, y: Any) -> dict[str, Any]:
    """A series, cut to the points that are kept."""
    label = str(artist.get_label() or "")
    return {
        "kind": kind,
        "label": "" if label.startswith("_") else label,
        "x": [plain(value) for value in list(x)[:POINTS]],
        "y": [plain(value) for value in list(y)[:POINTS]],
    }


def stay(*_: Any, **__: Any) -> None:
    """Stand in for a formatter's `pop`: matplotlib's backend takes figures out of every one."""


def show_data(shell: Any) -> None:
    """Make a kernel display DataFrames and figures as data too."""
    formatters = shell.display_formatter.formatters
    base = type(formatters["application/json"])
    fields = {"format_type": TABLE, "print_method": "_repr_data_resource_"}
    tables = type("TableFormatter", (base,), fields)()
    for module in ("pandas", "pandas.core.frame"):  # pandas 3 and before
        tables.for_type_by_name(module, "DataFrame", pandas_table)
    for module in ("pandas", "pandas.core.series"):
        tables.for_type_by_name(module, "Series", pandas_table)
    tables.for_type_by_name("polars.dataframe.frame", "DataFrame", polars_table)
    tables.for_type_by_name("polars.series.series", "Series", polars_table)
    formatters[TABLE] = tables
    fields = {"format_type": CHART, "print_method": "_repr_cci_chart_"}
    charts = type("ChartFormatter", (base,), {**fields, "pop": stay})()
    charts.for_type_by_name("matplotlib.figure", "Figure", chart)
    formatters[CHART] = charts
