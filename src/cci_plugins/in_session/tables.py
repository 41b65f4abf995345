"""Data of DataFrames, displayed next to their text. Sent as source, standard library only.

Libraries are matched by name and never imported. So one that the code did not load costs nothing.
"""

from __future__ import annotations

import json
from typing import Any

from cci_plugins.in_session.data import (
    MAX_DATA_BYTES,
    DisplayBudget,
    add_formatter,
    escape_surrogates,
    to_json_value,
)

MAX_ROWS, MAX_COLUMNS = 50, 100
MAX_DTYPE_CHARACTERS = 200  # of a type's name, which may list a million categories
MAX_POLARS_BYTES = 8 * MAX_DATA_BYTES  # in polars' memory: a larger frame cannot fit as JSON
TABLE = "application/vnd.dataresource+json"
# Types of Table Schema: by the kind of numpy types, by the start of the names of polars types.
NUMPY_TYPES = {
    "i": "integer",
    "u": "integer",
    "f": "number",
    "b": "boolean",
    "M": "datetime",
    "m": "duration",
}
POLARS_TYPES = {
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
    "Object": "any",
}


def fit_rows(build_resource: Any, frame: Any) -> Any:
    """Return a table of as many first rows as fit. None if one row does not fit or it fails."""
    rows = MAX_ROWS
    try:
        frame = frame.to_frame() if len(frame.shape) == 1 else frame
        while rows:
            resource = build_resource(frame, rows)
            if len(json.dumps(resource)) <= MAX_DATA_BYTES:
                return resource
            rows = min(rows, len(resource["data"])) // 2
    except Exception:  # noqa: BLE001 - a subclass may raise anything, the text is still shown
        return None
    return None


def build_pandas_table(frame: Any) -> Any:
    """Convert a pandas DataFrame or Series to a Table Schema resource, with its whole shape."""
    return fit_rows(build_pandas_resource, frame)


def build_pandas_resource(frame: Any, rows: int) -> Any:
    """Convert the first rows of a pandas DataFrame, with the index levels as first columns."""
    head = frame.iloc[:rows, :MAX_COLUMNS]
    # by number, because a level's name may equal the number of another level
    index = head.index.set_names(list(range(head.index.nlevels)))
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    columns = [head.iloc[:, number] for number in range(head.shape[1])]
    names = make_unique([*map(format_name, head.columns), *build_index_names(head.index)])
    names = names[len(columns) :] + names[: len(columns)]
    cells = [convert_column(column) for column in [*levels, *columns]]
    fields = [
        {
            "name": name,
            "type": map_pandas_type(column.dtype, values),
            "dtype": str(column.dtype)[:MAX_DTYPE_CHARACTERS],
        }
        for name, column, values in zip(names, [*levels, *columns], cells)  # noqa: B905 - same length
    ]
    for field in fields[: len(levels)]:
        del field["dtype"]
    data = [dict(zip(names, row)) for row in zip(*cells)]  # noqa: B905 - same length
    return {"schema": {"fields": fields}, "data": data, "shape": list(frame.shape)}


def convert_column(column: Any) -> list[Any]:
    """Convert the values of a column or an index level. Missing values become None."""
    pairs = zip(column.tolist(), column.isna())  # noqa: B905 - same length
    return [None if is_missing else to_json_value(value) for value, is_missing in pairs]


def build_index_names(index: Any) -> list[str]:
    """Return the names of an index's levels. Unnamed levels get the names that pandas uses."""
    if index.nlevels == 1:
        return ["index" if index.name is None else format_name(index.name)]
    return [
        f"level_{number}" if name is None else format_name(name)
        for number, name in enumerate(index.names)
    ]


def map_pandas_type(dtype: Any, values: list[Any]) -> str:
    """Map a pandas type to a type of Table Schema. Objects have the type of their JSON values."""
    categories = getattr(dtype, "categories", None)
    dtype = dtype if categories is None else categories.dtype
    if str(dtype).startswith(("date32", "date64")):  # of Arrow
        return "date"
    kind = NUMPY_TYPES.get(getattr(dtype, "kind", ""))
    is_text = all(value is None or isinstance(value, str) for value in values)
    return kind or ("string" if is_text else "any")


def build_polars_table(frame: Any) -> Any:
    """Convert a polars DataFrame or Series to a Table Schema resource, with its whole shape."""
    return fit_rows(build_polars_resource, frame)


def build_polars_resource(frame: Any, rows: int) -> Any:
    """Convert the first rows of a polars DataFrame."""
    names = frame.columns[:MAX_COLUMNS]
    head = frame.select(names).head(rows)
    while head.height > 1 and head.estimated_size() > MAX_POLARS_BYTES:
        head = head.head(head.height // 2)  # before long lists are converted to Python objects
    if head.estimated_size() > MAX_POLARS_BYTES:
        raise ValueError("one row is too large")
    fields = [
        {
            "name": name,
            "type": map_polars_type(str(dtype)),
            "dtype": str(dtype)[:MAX_DTYPE_CHARACTERS],
        }
        for name, dtype in head.schema.items()
    ]
    data = [{name: to_json_value(value) for name, value in row.items()} for row in head.to_dicts()]
    return {"schema": {"fields": fields}, "data": data, "shape": [frame.height, frame.width]}


def map_polars_type(dtype: str) -> str:
    """Map a polars type to a type of Table Schema."""
    return next((kind for start, kind in POLARS_TYPES.items() if dtype.startswith(start)), "string")


def format_name(name: Any) -> str:
    """Return a column's name as text. Levels of a MultiIndex are joined by slashes."""
    return escape_surrogates(" / ".join(map(str, name)) if isinstance(name, tuple) else str(name))


def make_unique(names: list[str]) -> list[str]:
    """Make every name unique. The second `a` becomes `a.1`, unless that name exists."""
    originals = set(names)
    unique: list[str] = []
    for name in names:
        candidate, count = name, 0
        while candidate in unique or (count and candidate in originals):
            count += 1
            candidate = f"{name}.{count}"
        unique.append(candidate)
    return unique


def register_table_formatter(shell: Any, budget: DisplayBudget) -> None:
    """Make a kernel display the data of DataFrames, too."""
    tables = add_formatter(shell, TABLE, budget)
    for module in ("pandas", "pandas.core.frame"):  # pandas 3, then older ones
        tables.for_type_by_name(module, "DataFrame", build_pandas_table)
    for module in ("pandas", "pandas.core.series"):
        tables.for_type_by_name(module, "Series", build_pandas_table)
    tables.for_type_by_name("polars.dataframe.frame", "DataFrame", build_polars_table)
    tables.for_type_by_name("polars.series.series", "Series", build_polars_table)
