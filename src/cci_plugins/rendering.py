"""Text of an execution for a model: the documented path of `cci_plugins.core.rendering`."""

from cci_plugins.core.rendering import clean, clip, render_text

__all__ = ["clean", "clip", "render_text"]
