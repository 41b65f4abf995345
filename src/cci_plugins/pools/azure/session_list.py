"""Lists of live sessions, as `.management/listSessions` of a pool returns them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AliasChoices, Field

from cci_plugins.mcp_client.wire_model import Text, Timestamp, TolerantModel
from cci_plugins.models import SessionInfo


class SessionPage(TolerantModel):
    """One page of a list of sessions."""

    sessions: list[Any] = Field(validation_alias=AliasChoices("sessions", "value"))
    next_link: Text = ""


class _Session(TolerantModel):
    identifier: Text
    created_at: Timestamp = None
    last_accessed_at: Timestamp = None
    expires_at: Timestamp = Field(None, validation_alias=AliasChoices("expiresAt", "expireAt"))


def parse_session_info(entry: object) -> SessionInfo:
    """Read a session's description.

    Args:
        entry: The description that the pool sent. A time that is missing or has no zone is read
            as the present one.

    Raises:
        ProtocolError: The description has no identifier.
    """
    session = _Session.load(entry, "session description")
    now = datetime.now(UTC)
    created, used, expires = (
        now if time is None or time.tzinfo is None else time
        for time in (session.created_at, session.last_accessed_at, session.expires_at)
    )
    return SessionInfo(session.identifier, created, used, expires)
