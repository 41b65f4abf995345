"""Figures and pictures of a run: each is shown once, and none is lost. Sent as source.

Code written for a script calls `matplotlib.use("Agg")`, which would make every later chart vanish,
and `Image.show()`, which would look for a window. Both display here instead. A figure that is
already shown is not shown again when the run ends. Characters without a glyph are reported once
for each run, with the fonts that there are.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from contextlib import suppress
from typing import Any

from cci_plugins.in_session.import_hooks import ImportHooks

INLINE = "module://matplotlib_inline.backend_inline"
INLINE_MODULE = "matplotlib_inline.backend_inline"
# Backends that cannot show a chart to anybody here.
HIDDEN_BACKENDS = re.compile(
    r"agg|cairo|pdf|pgf|ps|svg|template|nbagg|notebook|webagg|macosx"
    r"|(?:tk|qt|qt4|qt5|gtk3|gtk4|wx)(?:agg|cairo)|wx",
    re.IGNORECASE,
)
# Fonts with many scripts or with emoji. What the first fonts of a text lack is taken from them.
WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Droid Sans Fallback",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Symbola",
    "Arial Unicode MS",
    "Unifont",
)
FIGURE_IMAGES = ("image/png", "image/jpeg", "image/svg+xml", "application/pdf")
MAX_LISTED = 40


class ShownImages:
    """Knows which figures a run has shown, and finishes a run's figures.

    Args:
        shell: IPython's shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._images: set[int] = set()
        self._main_figures: set[int] = set()
        self._is_finishing = False
        self._missing_glyphs: dict[int, str] = {}

    def forget(self) -> None:
        """Forget what was shown, because a run begins or its output was cleared."""
        self._images.clear()
        self._main_figures.clear()

    def start_run(self) -> None:
        """Begin a run."""
        self.forget()
        self._missing_glyphs.clear()

    def finish_run(self) -> None:
        """Show the figures that are still open, and report characters without a glyph."""
        inline = sys.modules.get(INLINE_MODULE)
        if inline is not None:
            self._is_finishing = True
            try:
                self._flush(inline)
            finally:
                self._is_finishing = False
        if self._missing_glyphs:
            self._report_glyphs()

    def wrap_format(self, format_object: Any) -> Any:
        """Wrap the formatter of displayed objects, so that no figure is shown again at the end."""

        @functools.wraps(format_object)
        def format_once(value: Any, *args: Any, **options: Any) -> Any:
            if self._is_finishing and id(value) in self._main_figures:
                return {}, {}
            forms, metadata = format_object(value, *args, **options)
            image = next((forms[kind] for kind in FIGURE_IMAGES if kind in forms), None)
            if image is not None:
                if self._is_finishing and hash(image) in self._images:
                    return {}, {}
                self._images.add(hash(image))
            return forms, metadata

        return format_once

    def wrap_main_format(self, compute: Any) -> Any:
        """Wrap the formatter of the last expression's value, to know its figure."""

        @functools.wraps(compute)
        def compute_and_note(value: Any) -> Any:
            if type(value).__name__ == "Figure":
                self._main_figures.add(id(value))
            return compute(value)

        return compute_and_note

    def add_missing_glyph(self, codepoint: Any, fonts: str) -> None:
        """Replace matplotlib's warning, which would be one for each glyph."""
        self._missing_glyphs[int(codepoint)] = fonts

    def _flush(self, inline: Any) -> None:
        callbacks = self._shell.events.callbacks["post_execute"]
        inline.flush_figures()
        if inline.flush_figures not in callbacks:  # after %matplotlib with another backend
            inline.configure_inline_support(self._shell, INLINE)

    def _report_glyphs(self) -> None:
        characters = "".join(map(chr, sorted(self._missing_glyphs)[:MAX_LISTED]))
        count = len(self._missing_glyphs)
        manager = sys.modules["matplotlib.font_manager"].fontManager
        names = sorted({font.name for font in manager.ttflist})
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        sys.stderr.write(
            f"UserWarning: no font here has {count} characters of the chart, which are drawn as "
            f"boxes: {characters}\nFonts here: {', '.join(names[:MAX_LISTED])}{more}\n"
        )
        self._missing_glyphs.clear()


def keep_inline_backend(pyplot: Any) -> None:
    """Make pyplot show charts whatever backend the code asks for."""
    switch = pyplot.switch_backend

    @functools.wraps(switch)
    def switch_backend(newbackend: Any) -> Any:
        if isinstance(newbackend, str) and HIDDEN_BACKENDS.fullmatch(newbackend):
            sys.modules["matplotlib"].rcParams["backend"] = newbackend = INLINE
        return switch(newbackend)

    pyplot.switch_backend = switch_backend


def add_wide_fonts(font_manager: Any) -> None:
    """Make every text fall back to the wide fonts that are installed."""
    find_fonts = font_manager.FontManager._find_fonts_by_props  # noqa: SLF001 - no public hook
    found: list[Any] = []

    def find_wide_fonts(manager: Any) -> list[Any]:
        if not found:
            installed = {font.name for font in manager.ttflist}
            found.append(
                [
                    manager.findfont(font_manager.FontProperties(family=name))
                    for name in WIDE_FONTS
                    if name in installed
                ]
            )
        return list(found[0])

    @functools.wraps(find_fonts)
    def find_with_fallback(
        self: Any, prop: Any, fontext: str = "ttf", *args: Any, **more: Any
    ) -> Any:
        fonts = find_fonts(self, prop, fontext, *args, **more)
        wide = find_wide_fonts(self) if fontext == "ttf" else []
        return [*fonts, *(font for font in wide if font not in fonts)]

    font_manager.FontManager._find_fonts_by_props = find_with_fallback  # noqa: SLF001


def show_pictures(image_show: Any) -> None:
    """Make `Image.show()` of PIL display the picture."""

    class DisplayViewer(image_show.Viewer):  # type: ignore[misc] # of the session's PIL
        def show(self, image: Any, **_: Any) -> int:
            importlib.import_module("IPython.display").display(image)
            return 1

    image_show.register(DisplayViewer(), 0)


def install_figures(shell: Any, hooks: ImportHooks) -> None:
    """Set up a shell that has no `cci_shown_images` yet.

    Args:
        shell: IPython's shell.
        hooks: Where to wait for libraries.
    """
    shell.cci_shown_images = shown = ShownImages(shell)
    shell.display_formatter.format = shown.wrap_format(shell.display_formatter.format)
    shell.displayhook.compute_format_data = shown.wrap_main_format(
        shell.displayhook.compute_format_data
    )
    publisher = type(shell.display_pub)
    clear_output = publisher.clear_output

    @functools.wraps(clear_output)
    def clear_and_forget(self: Any, *args: Any, **options: Any) -> Any:
        shown.forget()
        return clear_output(self, *args, **options)

    publisher.clear_output = clear_and_forget
    shell.events.register("pre_execute", shown.start_run)
    shell.events.callbacks["post_execute"].insert(0, shown.finish_run)  # before matplotlib's own

    def report_glyphs_once(module: Any) -> None:
        module.warn_on_missing_glyph = shown.add_missing_glyph

    hooks.add("matplotlib.pyplot", keep_inline_backend)
    hooks.add("matplotlib.font_manager", add_wide_fonts)
    hooks.add("matplotlib._text_helpers", report_glyphs_once)
    hooks.add("PIL.ImageShow", show_pictures)
    with suppress(KeyError):
        sys.modules[INLINE_MODULE].configure_inline_support(shell, INLINE)
