"""DataFrames as data beside their text; sent as source, standard library only.

The libraries are named, never imported: what code did not load costs nothing.
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
MAX_DTYPE_CHARACTERS = 200  # characters of a type's name, which may tell a million categories
MAX_POLARS_BYTES = 8 * MAX_DATA_BYTES  # of polars' memory, more than what fits can take
TABLE = "application/vnd.dataresource+json"
# Types as Table Schema has them: of numpy by their kind, of polars by how their names begin.
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
    """A table of as many first rows as fit; None when not even one does, or it cannot be told."""
    rows = MAX_ROWS
    try:
        frame = frame.to_frame() if len(frame.shape) == 1 else frame
        while rows:
            resource = build_resource(frame, rows)
            if len(json.dumps(resource)) <= MAX_DATA_BYTES:
                return resource
            rows = min(rows, len(resource["data"])) // 2
    except Exception:  # noqa: BLE001 - the text is still shown; a subclass may raise anything
        return None
    return None


def build_pandas_table(frame: Any) -> Any:
    """A pandas DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fit_rows(build_pandas_resource, frame)


def build_pandas_resource(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame, each behind its index."""
    head = frame.iloc[:rows, :MAX_COLUMNS]
    index = head.index.set_names(list(range(head.index.nlevels)))  # a name may be another's number
    levels = [index.get_level_values(at) for at in range(index.nlevels)]
    columns = [head.iloc[:, at] for at in range(head.shape[1])]
    names = make_unique([*map(format_name, head.columns), *build_index_names(head.index)])
    names = names[len(columns) :] + names[: len(columns)]
    cells = [convert_column(one) for one in [*levels, *columns]]
    fields = [
        {
            "name": name,
            "type": map_pandas_type(one.dtype, values),
            "dtype": str(one.dtype)[:MAX_DTYPE_CHARACTERS],
        }
        for name, one, values in zip(names, [*levels, *columns], cells)  # noqa: B905 - one for each
    ]
    for field in fields[: len(levels)]:
        del field["dtype"]
    data = [dict(zip(names, row)) for row in zip(*cells)]  # noqa: B905 - one for each
    return {"schema": {"fields": fields}, "data": data, "shape": list(frame.shape)}


def convert_column(column: Any) -> list[Any]:
    """The values of a column or of a level of an index; None where there is none."""
    missing_mask = column.isna()
    return [None if no else to_json_value(one) for one, no in zip(column.tolist(), missing_mask)]  # noqa: B905


def build_index_names(index: Any) -> list[str]:
    """The names of an index's levels, as pandas makes them where they have none."""
    if index.nlevels == 1:
        return ["index" if index.name is None else format_name(index.name)]
    return [
        f"level_{at}" if name is None else format_name(name) for at, name in enumerate(index.names)
    ]


def map_pandas_type(dtype: Any, values: list[Any]) -> str:
    """A type of pandas as Table Schema has it; of objects, what they are told as."""
    categories = getattr(dtype, "categories", None)
    dtype = dtype if categories is None else categories.dtype
    if str(dtype).startswith(("date32", "date64")):  # of Arrow
        return "date"
    kind = NUMPY_TYPES.get(getattr(dtype, "kind", ""))
    texts = all(value is None or isinstance(value, str) for value in values)
    return kind or ("string" if texts else "any")


def build_polars_table(frame: Any) -> Any:
    """A polars DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fit_rows(build_polars_resource, frame)


def build_polars_resource(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame."""
    names = frame.columns[:MAX_COLUMNS]
    head = frame.select(names).head(rows)
    while head.height > 1 and head.estimated_size() > MAX_POLARS_BYTES:
        head = head.head(head.height // 2)  # before long lists become Python's
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
    """A type of polars as Table Schema has it."""
    return next((kind for start, kind in POLARS_TYPES.items() if dtype.startswith(start)), "string")


def format_name(name: Any) -> str:
    """A column's name as text; its levels in a row."""
    return escape_surrogates(" / ".join(map(str, name)) if isinstance(name, tuple) else str(name))


def make_unique(names: list[str]) -> list[str]:
    """Names of which none is there twice: the second `a` is `a.1`, unless that is taken."""
    taken = set(names)
    made: list[str] = []
    for name in names:
        new, count = name, 0
        while new in made or (count and new in taken):
            count += 1
            new = f"{name}.{count}"
        made.append(new)
    return made


def register_table_formatter(shell: Any, budget: DisplayBudget) -> None:
    """Make a kernel display DataFrames as data too."""
    tables = add_formatter(shell, TABLE, budget)
    for module in ("pandas", "pandas.core.frame"):  # pandas 3 and before
        tables.for_type_by_name(module, "DataFrame", build_pandas_table)
    for module in ("pandas", "pandas.core.series"):
        tables.for_type_by_name(module, "Series", build_pandas_table)
    tables.for_type_by_name("polars.dataframe.frame", "DataFrame", build_polars_table)
    tables.for_type_by_name("polars.series.series", "Series", build_polars_table)
