"""The public path of `cci_plugins.core.rendering`: the text of an execution for a model."""

from cci_plugins.core.rendering import clean, clip, render_text

__all__ = ["clean", "clip", "render_text"]
