"""What matplotlib figures plot, as data beside their pictures; sent as source.

The library is named, never imported: what code did not load costs nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

from cci_plugins.in_session.data import (
    MAX_DATA_BYTES,
    DisplayBudget,
    add_formatter,
    escape_surrogates,
    to_json_value,
)
from cci_plugins.in_session.tables import register_table_formatter

MAX_POINTS, MIN_POINTS, MAX_AXES, MAX_SERIES = 1_000, 10, 16, 50
CHART = "application/vnd.cci-plugins.chart+json"


def build_chart(figure: Any) -> Any:
    """What a figure plots, in as many points as fit; None when that cannot be told."""
    points = MAX_POINTS
    try:
        while points >= MIN_POINTS:
            axes = [build_axes(one, figure, points) for one in figure.axes[:MAX_AXES]]
            found = {"library": "matplotlib", "axes": [one for one in axes if one["series"]]}
            if len(json.dumps(found)) <= MAX_DATA_BYTES:
                return found if found["axes"] else None
            points //= 2
    except Exception:  # noqa: BLE001 - the picture is still shown
        return None
    return None


def build_axes(axes: Any, figure: Any, points: int) -> dict[str, Any]:
    """Titles and series of one pair of axes."""
    above = figure._suptitle.get_text() if figure._suptitle is not None else ""  # noqa: SLF001
    flat = axes.name != "3d"  # there, artists have what is projected, not what was plotted
    found = (
        [*collect_lines(axes), *collect_scatters(axes), *collect_bars(axes), *collect_pies(axes)]
        if flat
        else []
    )
    return {
        "title": escape_surrogates(axes.get_title() or above),
        "x_label": escape_surrogates(axes.get_xlabel()),
        "y_label": escape_surrogates(axes.get_ylabel()),
        "series": [build_series(axes, one, points) for one in found if len(one[3])],  # no legend's
    }


def collect_lines(axes: Any) -> list[Any]:
    """Lines of data; neither the caps of error bars nor what spans the axes."""
    caps = [
        cap
        for one in axes.containers
        if type(one).__name__ == "ErrorbarContainer"
        for cap in one.lines[1]
    ]
    return [
        ("line", line.get_label(), line.get_xdata(orig=True), line.get_ydata(orig=True))
        for line in axes.lines[:MAX_SERIES]
        if line not in caps and line.get_transform() is axes.transData
    ]


def collect_scatters(axes: Any) -> list[Any]:
    """Points, as `scatter` draws them."""
    return [
        ("scatter", one.get_label(), one.get_offsets()[:, 0], one.get_offsets()[:, 1])
        for one in axes.collections[:MAX_SERIES]
        if type(one).__name__ == "PathCollection" and len(one.get_offsets())
    ]


def collect_bars(axes: Any) -> list[Any]:
    """Bars, by their categories where the axis names them."""
    return [
        build_bars(axes, one) for one in axes.containers[:MAX_SERIES] if hasattr(one, "patches")
    ]


def build_bars(axes: Any, container: Any) -> Any:
    """One series of bars."""
    patches, label = container.patches, str(container.get_label() or "")
    if label.startswith("_") and patches:  # a histogram's first bar has its label
        label = patches[0].get_label()
    if getattr(container, "orientation", None) == "horizontal":
        at = [patch.get_y() + patch.get_height() / 2 for patch in patches]
        lengths = [patch.get_width() for patch in patches]
        return "barh", label, label_bars(axes.yaxis, at), lengths
    at = [patch.get_x() + patch.get_width() / 2 for patch in patches]
    lengths = [patch.get_height() for patch in patches]
    return "bar", label, label_bars(axes.xaxis, at), lengths


def collect_pies(axes: Any) -> list[Any]:
    """The parts of a pie, each between 0 and 1."""
    wedges = [one for one in axes.patches if type(one).__name__ == "Wedge"]
    if not wedges:
        return []
    parts = [round((one.theta2 - one.theta1) / 360, 6) for one in wedges]
    return [("pie", "", [str(one.get_label()) for one in wedges], parts)]


def read_tick_labels(axis: Any) -> dict[float, str]:
    """The labels that were set on an axis, by their places; none if they are but numbers."""
    formatter = axis.get_major_formatter()
    by_place = getattr(getattr(formatter, "func", None), "args", None)  # of set_ticklabels
    if not by_place and type(formatter).__name__ != "FixedFormatter":
        return {}
    places = axis.get_majorticklocs()
    labels = [label.get_text() for label in axis.get_ticklabels()]
    found = {round(float(at), 6): label for at, label in zip(places, labels) if label}  # noqa: B905
    return {} if all(map(is_number, found.values())) else found


def label_bars(axis: Any, at: list[Any]) -> list[Any]:
    """Places of bars by labels that may stand beside them, as in groups: one for each bar."""
    labels = list(read_tick_labels(axis).values())
    return labels if len(labels) == len(at) else at


def is_number(text: str) -> bool:
    """Whether a tick is just its place."""
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return False
    return True


def find_converter(axis: Any) -> Callable[[float], Any] | None:
    """How an axis of dates or categories reads its numbers; None for one of numbers."""
    frequency = getattr(axis, "freq", None)  # pandas plots periods by their ordinals
    if frequency is not None:
        period = sys.modules["pandas"].Period
        return lambda at: str(period(ordinal=int(at), freq=frequency))
    converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
    if type(converter).__name__ == "StrCategoryConverter":
        names = {at: name for name, at in axis.units._mapping.items()}  # noqa: SLF001
        return lambda at: names.get(round(at), at)
    if "Date" in type(converter).__name__:
        as_date = sys.modules["matplotlib.dates"].num2date
        return lambda at: as_date(at).replace(tzinfo=None).isoformat()
    return None


def build_series(axes: Any, found: Any, points: int) -> dict[str, Any]:
    """A series of a kind, with a label, x and y, cut to the points that are kept."""
    kind, label, x, y = found
    label = escape_surrogates(str(label or ""))
    along, across = (axes.yaxis, axes.xaxis) if kind == "barh" else (axes.xaxis, axes.yaxis)
    return {
        "kind": kind,
        "label": "" if label.startswith("_") else label,
        "x": convert_values(along, x, points),
        "y": convert_values(across, y, points),
        "size": len(y),
    }


def convert_values(axis: Any, given: Any, points: int) -> list[Any]:
    """The first values along an axis, as they were plotted."""
    found = [to_json_value(value) for value in islice(iter(given), points)]
    if not all(isinstance(value, (int, float)) for value in found):
        return found
    convert = find_converter(axis)
    if convert is not None:
        return [convert(value) for value in found]
    labels = read_tick_labels(axis)
    named = [labels.get(round(value, 6)) for value in found]
    return named if all(named) else found


def ignore_pop(*_: Any, **__: Any) -> None:
    """Stand in for a formatter's `pop`: matplotlib's backend takes figures out of every one."""


def register_chart_formatter(shell: Any, budget: DisplayBudget) -> None:
    """Make a kernel display figures as data too."""
    charts = add_formatter(shell, CHART, budget, pop=ignore_pop)
    charts.for_type_by_name("matplotlib.figure", "Figure", build_chart)


def register_data_formatters(shell: Any) -> None:
    """Make a kernel display tables and charts as data, within what a run may tell."""
    budget = DisplayBudget()
    shell.events.register("pre_execute", budget.reset)
    register_table_formatter(shell, budget)
    register_chart_formatter(shell, budget)
