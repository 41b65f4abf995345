"""Helpers for your tests: a pool without processes, a model without a key, the pool contract.

`FakeSessionPool` returns executions that you write. `ScriptedModel` serves a model that follows a
script, for agents of every framework. `check_session_pool` tests a session pool of your own.
"""

from .scripted_model import Script, ScriptedCall, ScriptedModel, Steps, Turn
from .session_pools import FakeProgram, FakeSessionPool, FakeTools, check_session_pool

__all__ = [
    "FakeProgram",
    "FakeSessionPool",
    "FakeTools",
    "Script",
    "ScriptedCall",
    "ScriptedModel",
    "Steps",
    "Turn",
    "check_session_pool",
]
