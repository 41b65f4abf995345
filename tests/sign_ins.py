"""A sign-in for tests of what a service may ask for."""

from __future__ import annotations

import time
from typing import Any


class Recorder:
    """A sign-in that records what it is asked for."""

    def __init__(self, *allowed: str) -> None:
        self._additionally_allowed_tenants = list(allowed)
        self.asked: list[tuple[Any, ...]] = []

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.credentials import AccessToken

        options.pop("enable_cae", None)
        self.asked.append((*scopes, *sorted(options.items())))
        return AccessToken(f"planted-{len(self.asked)}", int(time.time()) + 3600)
