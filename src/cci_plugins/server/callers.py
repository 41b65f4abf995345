"""Who sends a request: somebody with the shared key, or an identity of Microsoft Entra."""

from __future__ import annotations

from contextvars import ContextVar

current_caller: ContextVar[str] = ContextVar("cci_caller", default="")
"""The identity behind a request. Empty for everybody who has the shared key."""
