"""Data of matplotlib figures, sent next to their images. Sent as source.

Libraries are matched by name and never imported. So one that the code did not load costs nothing.
"""

from __future__ import annotations

import functools
import json
import re
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
from cci_plugins.in_session.figures import install_figures
from cci_plugins.in_session.import_hooks import ImportHooks
from cci_plugins.in_session.tables import register_table_formatter

MAX_POINTS, MIN_POINTS, MAX_AXES, MAX_SERIES = 1_000, 10, 16, 50
BOXES = "_cci_boxes"  # on axes
BOX_KEYS = {
    "low": "whislo",
    "q1": "q1",
    "median": "med",
    "q3": "q3",
    "high": "whishi",
    "outliers": "fliers",
}
UNIT = re.compile(r"\(([^()]{1,40})\)\s*$|\[([^\[\]]{1,40})\]\s*$")
CHART = "application/vnd.cci-plugins.chart+json"


def build_chart(figure: Any) -> Any:
    """Return the data of a figure in as many points as fit, or None if it has none."""
    points = MAX_POINTS
    try:
        while points >= MIN_POINTS:
            charts = [build_axes(axes, figure, points) for axes in figure.axes[:MAX_AXES]]
            data = {"library": "matplotlib", "axes": [one for one in charts if one["series"]]}
            if len(json.dumps(data)) <= MAX_DATA_BYTES:
                return data if data["axes"] else None
            points //= 2
    except Exception:  # noqa: BLE001 - the image is still displayed
        return None
    return None


def build_axes(axes: Any, figure: Any, points: int) -> dict[str, Any]:
    """Return the titles, scales and series of one pair of axes."""
    figure_title = figure._suptitle.get_text() if figure._suptitle is not None else ""  # noqa: SLF001
    series = (
        []
        if axes.name == "3d"  # its artists hold projected values, not the plotted ones
        else [
            *collect_lines(axes),
            *collect_error_bars(axes),
            *collect_boxes(axes),
            *collect_scatters(axes),
            *collect_bars(axes),
            *collect_pies(axes),
        ]
    )
    return {
        "title": escape_surrogates(axes.get_title() or figure_title),
        "figure_title": escape_surrogates(figure_title),
        "x_label": escape_surrogates(axes.get_xlabel()),
        "y_label": escape_surrogates(axes.get_ylabel()),
        "x_unit": find_unit(axes.get_xlabel()),
        "y_unit": find_unit(axes.get_ylabel()),
        "x_scale": find_scale(axes.xaxis),
        "y_scale": find_scale(axes.yaxis),
        # artists without values only make a legend entry
        "series": [build_series(axes, one, points) for one in series if len(one[3])],
    }


def find_unit(label: str) -> str:
    """Return the unit that a label ends with, as in `time (s)` or `time [s]`, or empty."""
    match = UNIT.search(label)
    return escape_surrogates(match[1] or match[2]).strip() if match else ""


def find_scale(axis: Any) -> str:
    """Return the scale of an axis: `datetime`, `categorical`, or matplotlib's name of it."""
    converter = get_converter(axis)
    if getattr(axis, "freq", None) is not None or "Date" in type(converter).__name__:
        return "datetime"
    if type(converter).__name__ == "StrCategoryConverter" or read_tick_labels(axis):
        return "categorical"
    return str(axis.get_scale())


def find_error_bars(axes: Any) -> list[Any]:
    """Return the containers of error bars."""
    return [one for one in axes.containers if type(one).__name__ == "ErrorbarContainer"]


def collect_lines(axes: Any) -> list[Any]:
    """Collect lines of data, without parts of boxes and error bars and lines that span the axes."""
    parts = {id(artist) for _, artists in get_boxes(axes) for artist in artists}
    for container in find_error_bars(axes):
        parts.update(map(id, (container.lines[0], *container.lines[1])))
    return [
        ("line", line.get_label(), line.get_xdata(orig=True), line.get_ydata(orig=True))
        for line in axes.lines[:MAX_SERIES]
        if id(line) not in parts and line.get_transform() is axes.transData
    ]


def collect_error_bars(axes: Any) -> list[Any]:
    """Collect lines with error bars. Those of bars belong to the bars."""
    series = []
    for container in find_error_bars(axes)[:MAX_SERIES]:
        line = container.lines[0]
        if line is not None:
            x, y = line.get_xdata(orig=True), line.get_ydata(orig=True)
            errors = measure_errors(container, line.get_xydata())
            series.append(("errorbar", container.get_label(), x, y, errors))
    return series


def measure_errors(container: Any, points: Any) -> dict[str, Any]:
    """Return the distances of error bars below and above each point.

    Args:
        container: The container of the error bars.
        points: The position of each point, as pairs of numbers.
    """
    bars = list(container.lines[2])
    errors = {}
    for key, number, exists in (
        ("x_error", 0, container.has_xerr),
        ("y_error", 1, container.has_yerr),
    ):
        if not exists or not bars:
            continue
        segments = bars.pop(0).get_segments()
        if len(segments) == len(points):  # else some bars were left out, and nobody knows which
            errors[key] = [
                [float(point[number] - ends[0][number]), float(ends[1][number] - point[number])]
                for point, ends in zip(points, segments)  # noqa: B905 - same length
            ]
    return errors


def get_boxes(axes: Any) -> list[Any]:
    """Return the statistics and artists of each box plot that is still on the axes."""
    return [
        (statistics, artists)
        for statistics, artists in getattr(axes, BOXES, ())
        if any(artist.axes is axes for artist in artists)
    ]


def collect_boxes(axes: Any) -> list[Any]:
    """Collect box plots, with the summary of each box."""
    series = []
    for statistics, artists in get_boxes(axes)[:MAX_SERIES]:
        medians = artists[: len(statistics)]
        is_horizontal = all(len(set(line.get_xdata())) == 1 for line in medians)
        places = [line.get_ydata() if is_horizontal else line.get_xdata() for line in medians]
        positions = [float(sum(place) / len(place)) for place in places]
        summaries = [
            {name: one[key] for name, key in BOX_KEYS.items() if key in one} for one in statistics
        ]
        series.append(("box", "", positions, summaries, {"is_horizontal": is_horizontal}))
    return series


def record_boxes(module: Any) -> None:
    """Make matplotlib's axes keep the statistics of box plots, of which it draws only lines."""
    draw = module.Axes.bxp

    @functools.wraps(draw)
    def draw_and_record(self: Any, *args: Any, **options: Any) -> Any:
        artists = draw(self, *args, **options)
        statistics = list(options.get("bxpstats", args[0] if args else ()))
        lines = [line for kind in ("medians", *artists) for line in artists[kind]]
        vars(self).setdefault(BOXES, []).append((statistics, lines))
        return artists

    module.Axes.bxp = draw_and_record


def collect_scatters(axes: Any) -> list[Any]:
    """Collect the points that `scatter` draws."""
    return [
        ("scatter", one.get_label(), one.get_offsets()[:, 0], one.get_offsets()[:, 1])
        for one in axes.collections[:MAX_SERIES]
        if type(one).__name__ == "PathCollection" and len(one.get_offsets())
    ]


def collect_bars(axes: Any) -> list[Any]:
    """Collect bars, with their categories if the axis names them."""
    return [
        build_bars(axes, one) for one in axes.containers[:MAX_SERIES] if hasattr(one, "patches")
    ]


def build_bars(axes: Any, container: Any) -> Any:
    """Return one series of bars."""
    patches, label = container.patches, str(container.get_label() or "")
    if label.startswith("_") and patches:  # the label of a histogram is at its first bar
        label = patches[0].get_label()
    if getattr(container, "orientation", None) == "horizontal":
        positions = [patch.get_y() + patch.get_height() / 2 for patch in patches]
        lengths = [patch.get_width() for patch in patches]
        errors = measure_bar_errors(container, list(zip(lengths, positions)))  # noqa: B905
        return "barh", label, label_bars(axes.yaxis, positions), lengths, errors
    positions = [patch.get_x() + patch.get_width() / 2 for patch in patches]
    lengths = [patch.get_height() for patch in patches]
    errors = measure_bar_errors(container, list(zip(positions, lengths)))  # noqa: B905
    return "bar", label, label_bars(axes.xaxis, positions), lengths, errors


def measure_bar_errors(container: Any, points: list[Any]) -> dict[str, Any]:
    """Return the errors of bars, as `measure_errors` does."""
    error_bars = getattr(container, "errorbar", None)
    return {} if error_bars is None else measure_errors(error_bars, points)


def collect_pies(axes: Any) -> list[Any]:
    """Collect the parts of a pie, each between 0 and 1."""
    wedges = [one for one in axes.patches if type(one).__name__ == "Wedge"]
    if not wedges:
        return []
    parts = [round((one.theta2 - one.theta1) / 360, 6) for one in wedges]
    return [("pie", "", [str(one.get_label()) for one in wedges], parts)]


def read_tick_labels(axis: Any) -> dict[float, str]:
    """Return the text labels of an axis by position. Return nothing if all are numbers."""
    formatter = axis.get_major_formatter()
    has_labels = getattr(getattr(formatter, "func", None), "args", None)  # of set_ticklabels
    if not has_labels and type(formatter).__name__ != "FixedFormatter":
        return {}
    texts = [label.get_text() for label in axis.get_ticklabels()]
    pairs = zip(axis.get_majorticklocs(), texts)  # noqa: B905 - same length
    labels = {round(float(position), 6): text for position, text in pairs if text}
    return {} if all(map(is_number, labels.values())) else labels


def label_bars(axis: Any, positions: list[Any]) -> list[Any]:
    """Return the tick labels if each bar has one, else the positions.

    The position of a label is not compared, because grouped bars stand next to it.
    """
    labels = list(read_tick_labels(axis).values())
    return labels if len(labels) == len(positions) else positions


def is_number(text: str) -> bool:
    """Return whether a tick label is a number."""
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return False
    return True


def get_converter(axis: Any) -> Any:
    """Return matplotlib's converter of an axis, or None."""
    return axis.get_converter() if hasattr(axis, "get_converter") else axis.converter


def find_converter(axis: Any) -> Callable[[float], Any] | None:
    """Return a function from an axis's numbers to its dates or categories, or None."""
    frequency = getattr(axis, "freq", None)  # pandas plots the ordinals of periods
    if frequency is not None:
        period = sys.modules["pandas"].Period
        return lambda number: str(period(ordinal=int(number), freq=frequency))
    converter = get_converter(axis)
    if type(converter).__name__ == "StrCategoryConverter":
        names = {number: name for name, number in axis.units._mapping.items()}  # noqa: SLF001
        return lambda number: names.get(round(number), number)
    if "Date" in type(converter).__name__:
        to_date = sys.modules["matplotlib.dates"].num2date
        return lambda number: to_date(number).replace(tzinfo=None).isoformat()
    return None


def build_series(axes: Any, series: Any, points: int) -> dict[str, Any]:
    """Return a series with its kind, label, x and y, cut to at most `points` points."""
    kind, label, x, y, *rest = series
    more = rest[0] if rest else {}
    label = escape_surrogates(str(label or ""))
    is_horizontal = kind == "barh" or more.get("is_horizontal", False)
    x_axis, y_axis = (axes.yaxis, axes.xaxis) if is_horizontal else (axes.xaxis, axes.yaxis)
    errors = {
        key: to_json_value(more[key][:points]) for key in ("x_error", "y_error") if key in more
    }
    return {
        "kind": kind,
        "label": "" if label.startswith("_") else label,
        "x": convert_values(x_axis, x, points),
        "y": convert_values(y_axis, y, points),
        "size": len(y),
        **errors,
    }


def convert_values(axis: Any, plotted: Any, points: int) -> list[Any]:
    """Return the first values along an axis as dates, categories or numbers."""
    values = [to_json_value(value) for value in islice(iter(plotted), points)]
    if not all(isinstance(value, (int, float)) for value in values):
        return values
    convert = find_converter(axis)
    if convert is not None:
        return [convert(value) for value in values]
    labels = read_tick_labels(axis)
    names = [labels.get(round(value, 6)) for value in values]
    return names if all(names) else values


def ignore_pop(*_: Any, **__: Any) -> None:
    """Replace a formatter's `pop`, by which matplotlib's backend unregisters figures."""


def register_chart_formatter(shell: Any, budget: DisplayBudget) -> None:
    """Make a kernel display the data of figures, too."""
    charts = add_formatter(shell, CHART, budget, pop=ignore_pop)
    charts.for_type_by_name("matplotlib.figure", "Figure", build_chart)


def register_data_formatters(shell: Any) -> None:
    """Make a kernel display charts, and the data of tables and charts within a run's budget."""
    budget = DisplayBudget()
    if not hasattr(shell, "cci_shown_images"):  # an embedded kernel may get an agent, too
        hooks = ImportHooks()
        hooks.add("matplotlib.axes._axes", record_boxes)
        install_figures(shell, hooks)
    shell.events.register("pre_execute", budget.reset)
    register_table_formatter(shell, budget)
    register_chart_formatter(shell, budget)
