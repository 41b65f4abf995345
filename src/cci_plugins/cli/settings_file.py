"""The option `--env-file`, which names the file that settings are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cci_plugins.common.settings import name_env_file


def _use(path: Path | None) -> Path | None:
    if path is not None:
        name_env_file(path)
    return path


SettingsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        callback=_use,
        help="File of settings that you trust. By default .env in the current folder is read, "
        "but not for settings that act on this machine.",
    ),
]
