"""Generator of the pictures in `docs/assets`: diagrams, terminal screens and the demo's chart.

`python docs/pictures.py` draws the diagrams. `python docs/pictures.py --record` also runs the
commands and the demo, and saves what they print and draw.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "assets"
WIDTH = 560
COLUMNS = 90
FILLS = {
    "plain": ("#ffffff", "#57606a"),
    "ours": ("#ede7f6", "#4527a0"),
    "azure": ("#e3f2fd", "#0b5394"),
    "safe": ("#e6f4ea", "#1e6b34"),
    "stop": ("#fdeaea", "#a4262c"),
    "area": ("#f1f3f6", "#8c959f"),
}
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#1f2328}"
    ".t{font-size:17px;font-weight:600}.l{font-size:15px}.a{font-size:14px;fill:#424a53}"
    ".line{fill:none;stroke:#57606a;stroke-width:2}"
)
ARROW = (
    '<marker id="end" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#57606a"/></marker>'
)


class Drawing:
    """A diagram on a light card, so that it is readable on a light and on a dark page."""

    def __init__(self, title: str, height: int) -> None:
        self.title = title
        self.height = height
        self.parts: list[str] = []

    def text(self, x: int, y: int, text: str, kind: str = "l", anchor: str = "middle") -> None:
        """Write one line of text."""
        self.parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def area(self, x: int, y: int, width: int, height: int, kind: str) -> None:
        """Draw a rounded rectangle."""
        fill, edge = FILLS[kind]
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" '
            f'stroke="{edge}" stroke-width="1.5"/>'
        )

    def box(
        self, x: int, y: int, width: int, height: int, title: str, *lines: str, kind: str = "plain"
    ) -> None:
        """Draw a box with a title and lines in its middle."""
        self.area(x, y, width, height, kind)
        top = y + (height - 20 * (len(lines) + 1)) // 2 + 16
        self.text(x + width // 2, top, title, "t")
        for number, line in enumerate(lines, 1):
            self.text(x + width // 2, top + 20 * number, line)

    def arrow(self, *points: tuple[int, int], both: bool = False) -> None:
        """Draw a line through the points, with a head at its end."""
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        start = ' marker-start="url(#end)"' if both else ""
        self.parts.append(f'<path class="line" d="{path}" marker-end="url(#end)"{start}/>')

    def svg(self) -> str:
        """Return the drawing as SVG."""
        card = (
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{self.height - 2}" rx="12" '
            'fill="#ffffff" stroke="#d0d7de"/>'
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            f'width="{WIDTH}" height="{self.height}" role="img">'
        )
        body = "\n".join(self.parts)
        return (
            f"{head}\n<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n"
            f"<defs>{ARROW}</defs>\n{card}\n{body}\n</svg>\n"
        )


def draw_overview() -> Drawing:
    """Draw an agent, its tool, its session and the pool."""
    drawing = Drawing("An agent calls a tool, which runs Python in a session of a pool", 412)
    drawing.box(20, 20, 200, 84, "Your agent", "LangGraph, Semantic", "Kernel, any MCP client")
    drawing.box(340, 20, 200, 84, "The tool", "execute_code", "in your program", kind="ours")
    drawing.arrow((220, 46), (340, 46))
    drawing.text(280, 38, "Python", "a")
    drawing.arrow((340, 82), (220, 82))
    drawing.text(280, 100, "text, charts", "a")
    drawing.area(20, 176, 520, 216, "area")
    drawing.arrow((440, 104), (440, 150), (108, 150), (108, 222))
    drawing.text(274, 142, "the session of this conversation", "a")
    drawing.text(324, 202, "Session pool", "t")
    lines = ("a Python kernel,", "variables, files")
    drawing.box(36, 222, 152, 100, "Session: alice", *lines, kind="safe")
    drawing.box(204, 222, 152, 100, "Session: bob", *lines, kind="safe")
    drawing.box(372, 222, 152, 100, "…", "one session for", "each conversation", kind="safe")
    drawing.text(280, 348, "on your laptop: sandboxed with bubblewrap or Landlock")
    drawing.text(280, 374, "in Azure Container Apps: separated by Hyper-V")
    return drawing


def draw_architecture() -> Drawing:
    """Draw the layers as a reader of the code meets them."""
    drawing = Drawing("The layers of the package: each imports only what is below it", 522)
    rows = (
        ("cli, doctor", "commands for people", "plain"),
        ("adapters, server", "LangChain, Semantic Kernel, MCP, …", "ours"),
        ("tools", "execute_code: what a model sees", "ours"),
        ("core", "interpreter, sessions, results, limits", "ours"),
        ("files", "uploads and downloads by the best route", "ours"),
        ("pools", "embedded pool, Azure pools", "safe"),
        ("azure, in_session, mcp_client", "sign-in, code in sessions, MCP", "azure"),
        ("common, errors, models", "values that every layer uses", "plain"),
    )
    for number, (title, line, kind) in enumerate(rows):
        y = 20 + 62 * number
        drawing.box(20, y, 520, 50, title, line, kind=kind)
        if number:
            drawing.arrow((280, y - 12), (280, y))
    return drawing


def draw_file_routes() -> Drawing:
    """Draw the ways of a file between a program and a session."""
    drawing = Drawing("The routes of a file between your program and the session", 430)
    drawing.box(20, 20, 130, 180, "Program", "yours", kind="ours")
    drawing.box(410, 20, 130, 390, "Session", "/mnt/data", kind="safe")
    for y, name, note in (
        (48, "endpoint", "the pool's files API"),
        (106, "inline", "one call of code"),
        (164, "pieces", "several calls of code"),
    ):
        drawing.arrow((150, y + 10), (410, y + 10), both=True)
        drawing.text(280, y, name, "t")
        drawing.text(280, y + 29, note, "a")
    drawing.box(205, 226, 150, 72, "Your storage", "account in Azure", kind="azure")
    drawing.arrow((85, 200), (85, 262), (205, 262), both=True)
    drawing.text(144, 252, "blob", "t")
    drawing.arrow((355, 262), (410, 262), both=True)
    drawing.box(205, 338, 150, 72, "A URL", "of yours, HTTPS")
    drawing.arrow((355, 374), (410, 374))
    drawing.text(382, 362, "direct", "a")
    drawing.arrow((205, 374), (50, 374), (50, 200))
    drawing.text(128, 362, "relayed", "t")
    drawing.text(128, 396, "fetch, no egress", "a")
    return drawing


def draw_isolation() -> Drawing:
    """Draw how the embedded pool chooses its isolation backend."""
    drawing = Drawing("The isolation backend is tested when the pool starts", 490)
    drawing.box(
        20, 20, 520, 50, "The pool starts", "each test runs the real command line", kind="ours"
    )
    steps = (
        (104, "bwrap", "bubblewrap works?", "no host files, no network", "hidden processes"),
        (220, "landlock", "Landlock works?", "no host files, no network", "paths can be probed"),
        (336, "seatbelt", "macOS: Seatbelt?", "no host files, no network", "experimental"),
    )
    for y, name, question, first, second in steps:
        drawing.box(20, y, 210, 76, question, "a canary file must", "stay unreadable")
        drawing.arrow((230, y + 38), (320, y + 38))
        drawing.text(274, y + 30, "yes", "a")
        drawing.box(320, y, 220, 76, name, first, second, kind="safe")
    for start, end in ((70, 104), (180, 220), (296, 336)):
        drawing.arrow((125, start), (125, end))
    drawing.text(142, 206, "no", "a")
    drawing.text(142, 322, "no", "a")
    drawing.arrow((125, 412), (125, 436))
    drawing.text(142, 430, "no", "a")
    drawing.box(20, 436, 520, 38, "No code runs", kind="stop")
    return drawing


def draw_azure_pools() -> Drawing:
    """Draw the two kinds of session pools of Azure Container Apps."""
    drawing = Drawing("The two kinds of session pools in Azure Container Apps", 424)
    drawing.box(20, 20, 520, 50, "Your program", "CodeInterpreter.from_env()", kind="ours")
    drawing.arrow((145, 70), (145, 156))
    drawing.text(152, 104, "API key (MCP)", "a", "start")
    drawing.text(152, 124, "or sign-in", "a", "start")
    drawing.arrow((415, 70), (415, 156))
    drawing.text(422, 104, "sign-in only", "a", "start")
    drawing.area(20, 156, 250, 248, "azure")
    drawing.area(290, 156, 250, 248, "azure")
    for x, title, lines, box in (
        (
            20,
            "Python pool",
            ("containerType: PythonLTS", "Azure's own Python,", "ready in seconds"),
            ("Azure's interpreter", "text answers: a small", "agent adds images, files"),
        ),
        (
            290,
            "Custom container pool",
            ("CustomContainer", "your packages and image,", "your CPU and memory"),
            ("This package's image", "full results, files API;", "other images work too"),
        ),
    ):
        drawing.text(x + 125, 184, title, "t")
        for number, line in enumerate(lines):
            drawing.text(x + 125, 210 + 22 * number, line)
        drawing.box(x + 14, 276, 222, 84, *box, kind="safe")
        drawing.text(x + 125, 388, "sessions behind Hyper-V", "a")
    return drawing


DIAGRAMS = {
    "overview.svg": draw_overview,
    "architecture.svg": draw_architecture,
    "file-routes.svg": draw_file_routes,
    "isolation.svg": draw_isolation,
    "azure-pools.svg": draw_azure_pools,
}
SCREENS = {
    "cci-run.svg": (
        "cci run 'print(6 * 7)'",
        "cci run heaviest.py --upload penguins.csv --download mass.csv",
    ),
    "cci-doctor.svg": ("cci doctor --local-only",),
    "demo.svg": ("make demo",),
}
SCRIPT = """\
import pandas as pd

penguins = pd.read_csv("penguins.csv")
mass = penguins.groupby("species")["body_mass_g"].mean().round(1)
mass.to_csv("mass.csv")
print(mass.to_string())
chart = mass.plot.bar(rot=0)
"""
MOST_LINES = 48


def draw_screen(title: str, lines: Iterable[str]) -> str:
    """Return a terminal that shows these lines, as SVG that loads nothing from elsewhere."""
    from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    before, _, rest = CONSOLE_SVG_FORMAT.partition("@font-face")
    template = before + rest[rest.rindex("}}\n    .{unique_id}-matrix".replace("\n", "\n\n")) + 2 :]
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    return console.export_svg(title=title, code_format=template, unique_id="screen")


def run_shown(command: str, folder: Path) -> list[str]:
    """Run a command in a folder, and return the prompt and the lines that a terminal shows."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    for name, arguments in (("cci", "-m cci_plugins"), ("make", "-m samples.demo; exit; true")):
        program = programs / name
        program.write_text(f'#!/bin/sh\n{sys.executable} {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: S602  (the commands stand in this file)
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, **path, "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return [f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m", *done.stdout.splitlines()]


def record() -> None:
    """Run the commands of the screens, and save their pictures and the demo's chart."""
    for name, commands in SCREENS.items():
        with TemporaryDirectory() as place:
            folder = Path(place)
            shutil.copy(ROOT / "samples" / "data" / "penguins.csv", folder)
            (folder / "heaviest.py").write_text(SCRIPT, encoding="utf-8")
            lines = [line for command in commands for line in [*run_shown(command, folder), ""]]
            lines = lines[:MOST_LINES]
            (FOLDER / name).write_text(
                draw_screen(name.removesuffix(".svg").replace("-", " "), lines), encoding="utf-8"
            )
            chart = folder / "demo-output" / "langgraph-chart-1.png"
            if chart.exists():
                shutil.copy(chart, FOLDER / "demo-chart.png")


def stale() -> list[str]:
    """Return the names of the diagrams that differ from this file."""
    return [
        name
        for name, draw in DIAGRAMS.items()
        if not (FOLDER / name).is_file()
        or (FOLDER / name).read_text(encoding="utf-8") != draw().svg()
    ]


def main() -> None:
    """Draw the diagrams, and with `--record` the rest."""
    for name in stale():
        (FOLDER / name).write_text(DIAGRAMS[name]().svg(), encoding="utf-8")
    if "--record" in sys.argv[1:]:
        record()


if __name__ == "__main__":
    main()
