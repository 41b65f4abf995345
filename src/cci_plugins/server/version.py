"""The version that the server tells."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def get_server_version() -> str:
    """This package's version; `0` in a source tree that was never installed."""
    try:
        return version("cci-plugins")
    except PackageNotFoundError:
        return "0"
