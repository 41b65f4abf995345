"""A small OpenAI-compatible server whose model follows a script, for runs without a key."""

from .script import Script, ScriptedCall, Steps, Turn
from .server import ScriptedModel

__all__ = ["Script", "ScriptedCall", "ScriptedModel", "Steps", "Turn"]
