"""DataFrames as data beside their text; sent as source, standard library only.

The libraries are named, never imported: what code did not load costs nothing.
"""

from __future__ import annotations

import json
from typing import Any

from cci_plugins.in_session.data import BYTES, Room, add_form, plain, text

ROWS, COLUMNS = 50, 100
DTYPE = 200  # characters of a type's name, which may tell a million categories
NESTED = 8 * BYTES  # of polars' memory, more than what fits can take
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


def fitting(make: Any, frame: Any) -> Any:
    """A table of as many first rows as fit; None when not even one does, or it cannot be told."""
    rows = ROWS
    try:
        frame = frame.to_frame() if len(frame.shape) == 1 else frame
        while rows:
            resource = make(frame, rows)
            if len(json.dumps(resource)) <= BYTES:
                return resource
            rows = min(rows, len(resource["data"])) // 2
    except Exception:  # noqa: BLE001 - the text is still shown; a subclass may raise anything
        return None
    return None


def pandas_table(frame: Any) -> Any:
    """A pandas DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fitting(pandas_rows, frame)


def pandas_rows(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame, each behind its index."""
    head = frame.iloc[:rows, :COLUMNS]
    index = head.index.set_names(list(range(head.index.nlevels)))  # a name may be another's number
    levels = [index.get_level_values(at) for at in range(index.nlevels)]
    columns = [head.iloc[:, at] for at in range(head.shape[1])]
    names = unique([*map(name_of, head.columns), *index_names(head.index)])
    names = names[len(columns) :] + names[: len(columns)]
    cells = [values_of(one) for one in [*levels, *columns]]
    fields = [
        {"name": name, "type": pandas_type(one.dtype, values), "dtype": str(one.dtype)[:DTYPE]}
        for name, one, values in zip(names, [*levels, *columns], cells)  # noqa: B905 - one for each
    ]
    for field in fields[: len(levels)]:
        del field["dtype"]
    data = [dict(zip(names, row)) for row in zip(*cells)]  # noqa: B905 - one for each
    return {"schema": {"fields": fields}, "data": data, "shape": list(frame.shape)}


def values_of(column: Any) -> list[Any]:
    """The values of a column or of a level of an index; None where there is none."""
    gone = column.isna()
    return [None if no else plain(one) for one, no in zip(column.tolist(), gone)]  # noqa: B905


def index_names(index: Any) -> list[str]:
    """The names of an index's levels, as pandas makes them where they have none."""
    if index.nlevels == 1:
        return ["index" if index.name is None else name_of(index.name)]
    return [f"level_{at}" if name is None else name_of(name) for at, name in enumerate(index.names)]


def pandas_type(dtype: Any, values: list[Any]) -> str:
    """A type of pandas as Table Schema has it; of objects, what they are told as."""
    categories = getattr(dtype, "categories", None)
    dtype = dtype if categories is None else categories.dtype
    if str(dtype).startswith(("date32", "date64")):  # of Arrow
        return "date"
    kind = NUMPY_TYPES.get(getattr(dtype, "kind", ""))
    texts = all(value is None or isinstance(value, str) for value in values)
    return kind or ("string" if texts else "any")


def polars_table(frame: Any) -> Any:
    """A polars DataFrame or Series as a Table Schema resource, with its whole shape."""
    return fitting(polars_rows, frame)


def polars_rows(frame: Any, rows: int) -> Any:
    """The first rows of a DataFrame."""
    names = frame.columns[:COLUMNS]
    head = frame.select(names).head(rows)
    while head.height > 1 and head.estimated_size() > NESTED:
        head = head.head(head.height // 2)  # before long lists become Python's
    if head.estimated_size() > NESTED:
        raise ValueError("one row is too large")
    fields = [
        {"name": name, "type": polars_type(str(dtype)), "dtype": str(dtype)[:DTYPE]}
        for name, dtype in head.schema.items()
    ]
    data = [{name: plain(value) for name, value in row.items()} for row in head.to_dicts()]
    return {"schema": {"fields": fields}, "data": data, "shape": [frame.height, frame.width]}


def polars_type(dtype: str) -> str:
    """A type of polars as Table Schema has it."""
    return next((kind for start, kind in POLARS_TYPES.items() if dtype.startswith(start)), "string")


def name_of(name: Any) -> str:
    """A column's name as text; its levels in a row."""
    return text(" / ".join(map(str, name)) if isinstance(name, tuple) else str(name))


def unique(names: list[str]) -> list[str]:
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


def show_tables(shell: Any, room: Room) -> None:
    """Make a kernel display DataFrames as data too."""
    tables = add_form(shell, TABLE, room)
    for module in ("pandas", "pandas.core.frame"):  # pandas 3 and before
        tables.for_type_by_name(module, "DataFrame", pandas_table)
    for module in ("pandas", "pandas.core.series"):
        tables.for_type_by_name(module, "Series", pandas_table)
    tables.for_type_by_name("polars.dataframe.frame", "DataFrame", polars_table)
    tables.for_type_by_name("polars.series.series", "Series", polars_table)
