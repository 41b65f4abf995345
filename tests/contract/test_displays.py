"""What a run displays arrives once, in order and within bounds, on every kind of pool."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration._emulated import emulated

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.quick("embedded", "platform")]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["embedded", "platform", "managed"])
async def interpreter(
    request: pytest.FixtureRequest, anyio_backend: str
) -> AsyncIterator[CodeInterpreter]:
    pool = LocalSessionPool(ready_sessions=0, preload=())
    if request.param == "embedded":
        async with CodeInterpreter(pool) as opened:
            yield opened
        return
    async with emulated(pool, kind=request.param) as served:
        async with CodeInterpreter(served.client()) as opened:
            yield opened


async def run(interpreter: CodeInterpreter, code: str) -> Execution:
    execution = await interpreter.session("displays").run_code(code)
    assert execution.error is None, execution.error
    assert execution.state == "kept"
    return execution


def count_images(execution: Execution) -> int:
    return sum(result.png is not None for result in execution.results)


LIVE_PLOT = """
import matplotlib.pyplot as plt
from IPython.display import clear_output, display
figure, axes = plt.subplots()
for step in range(4):
    axes.plot([step, step + 1])
    clear_output(wait=True)
    print("step", step)
    display(figure)
"""
SCRIPT = """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
plt.plot([3, 4])
None
"""
GLYPHS = "plt.title('\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{CJK UNIFIED IDEOGRAPH-6587}')\nplt.show()"
WIDE_FONT = """
import matplotlib.font_manager as fonts, matplotlib.pyplot as plt
path = next(one.fname for one in fonts.fontManager.ttflist if one.fname.endswith("DejaVuSans.ttf"))
options = dict(style="normal", variant="normal", weight=400, stretch="normal", size="scalable")
fonts.fontManager.ttflist.append(fonts.FontEntry(fname=path, name="Symbola", **options))
plt.title("\N{ARABIC LETTER MEEM}", family="cmr10")
plt.show()
"""
ORDER = """
import sys
print("first")
display("shown")
print("second")
print("third", file=sys.stderr)
'last'
"""


async def test_displays_arrive_once_and_in_order(interpreter: CodeInterpreter) -> None:
    execution = await run(interpreter, ORDER)
    found = [event.text or str(event.result and event.result.text) for event in execution.outputs]
    assert found == ["first\n", "'shown'", "second\n", "third\n", "'last'"]
    count = execution.execution_count
    assert count is not None

    live = await run(interpreter, LIVE_PLOT)
    assert (count_images(live), live.stdout) == (1, "step 3\n")
    assert len(live.results[0].charts[0].series) == 4, "the last frame"
    assert live.execution_count == count + 1

    update = "shown = display(0, display_id=True)\nfor n in range(3): shown.update(n)"
    assert [result.text for result in (await run(interpreter, update)).results] == ["2"]

    for code in (
        "figure, axes = plt.subplots()\naxes.plot([1])\nfigure",
        "plt.plot([1])\ndisplay(plt.gcf())",
        "figure, axes = plt.subplots()\naxes.plot([1])\nplt.show()\nfigure",
    ):
        assert count_images(await run(interpreter, code)) == 1, code


@pytest.mark.quick("embedded")
async def test_long_texts_and_displays_keep_their_order(interpreter: CodeInterpreter) -> None:
    code = """
import time
from IPython.display import display
for number in range(4):
    print(str(number) * 200_000)
    display(number)
    print("short", number)
    time.sleep(0.25 * (number % 2))  # longer than the stream's timer
    display(number)
"""
    execution = await run(interpreter, code)
    found = [event.text or str(event.result and event.result.text) for event in execution.outputs]
    kept = "".join(found)
    expected = "".join(
        f"{number}" * 200_000 + f"\n{number}short {number}\n{number}" for number in range(4)
    )
    assert kept == expected


async def test_charts_are_shown_whatever_backend_the_code_names(
    interpreter: CodeInterpreter,
) -> None:
    for code in (SCRIPT, "%matplotlib notebook" + SCRIPT, "plt.switch_backend('svg')" + SCRIPT):
        first, second = (await run(interpreter, code)).results
        assert [first.charts[0].series[0].y, second.charts[0].series[0].y] == [(1, 2), (3, 4)]
    assert count_images(await run(interpreter, "plt.plot([1])\nNone")) == 1

    glyphs = await run(interpreter, GLYPHS)
    assert glyphs.stderr.count("Glyph") == 0
    assert glyphs.stderr == "" or "Fonts here: DejaVu" in glyphs.stderr

    picture = await run(interpreter, "from PIL import Image\nImage.new('RGB', (2, 2)).show()")
    assert count_images(picture) == 1


@pytest.mark.quick("embedded")
async def test_a_wide_font_replaces_one_without_the_character(interpreter: CodeInterpreter) -> None:
    wide = await interpreter.session("fonts").run_code(WIDE_FONT)
    assert (wide.error, wide.stderr) == (None, "")


@pytest.mark.quick("embedded")
async def test_what_is_too_large_is_cut_and_counted_and_the_session_stays(
    interpreter: CodeInterpreter,
) -> None:
    text = await run(interpreter, "kept = 1\n'x' * 40_000_000")
    assert "[... 38,951,426 characters not kept ...]" in text.text
    assert text.notes == ("text/plain of 40,000,002 characters was cut to 1,048,576",)

    html = await run(interpreter, "from IPython.display import HTML\nHTML('x' * 40_000_000)")
    assert html.notes == ("text/html of 40,000,000 characters was too large to keep",)

    session = interpreter.session("displays")
    failed = await session.run_code("raise ValueError('x' * 40_000_000)")
    assert failed.error is not None
    assert failed.error.name == "ValueError"
    assert "[... 38,951,424 characters not kept ...]" in failed.error.message

    flood = await session.run_code("print('x' * (100 << 20), end='')")
    assert flood.dropped_characters == (100 << 20) - 6_000_000
    assert (await run(interpreter, "kept")).text == "1"


async def test_a_box_plot_and_error_bars_are_data_of_their_own_kind(
    interpreter: CodeInterpreter,
) -> None:
    execution = await run(interpreter, BOXES)
    boxes, errors = execution.results[0].charts
    (box,) = boxes.series
    assert (box.kind, box.x) == ("box", ("a", "b"))
    assert box.y[0] == {
        "low": 1, "q1": 1.75, "median": 2.5, "q3": 4.75, "high": 4.75, "outliers": [10],
    }  # fmt: skip
    line, bars = errors.series
    assert (line.kind, line.y, line.y_error) == ("errorbar", (3, 5), ([0.5, 0.5], [0.25, 0.25]))
    assert (bars.kind, bars.x_error, bars.y_error) == ("bar", (), ([1.0, 1.0], [1.0, 1.0]))
    assert (boxes.y_unit, boxes.y_scale, boxes.figure_title) == ("ms", "log", "Both")
    assert (boxes.title, boxes.x_scale, errors.x_scale) == ("Left", "categorical", "linear")


BOXES = """
import matplotlib.pyplot as plt
figure, (left, right) = plt.subplots(1, 2)
left.boxplot([[1, 2, 3, 10], [2, 3, 4]])
left.set_xticklabels(["a", "b"])
left.set(title="Left", ylabel="time (ms)", yscale="log")
right.errorbar([1, 2], [3, 5], yerr=[0.5, 0.25], capsize=3)
right.bar([1, 2], [3, 5], yerr=1)
figure.suptitle("Both")
plt.show()
"""


async def test_a_malformed_image_is_a_note(interpreter: CodeInterpreter) -> None:
    execution = await run(interpreter, "display({'image/png': '\xe9'}, raw=True)")
    (note,) = execution.notes
    assert note == "displayed images that are malformed and cannot be shown: 1 (image/png)"
