"""`cci run`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cci_plugins.common.settings import IsolationName

from .run_job import RunOptions, run_code
from .settings_file import SettingsFileOption

IsolationOption = Annotated[
    IsolationName | None, typer.Option(help="Isolation backend of the embedded pool.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print each execution as one line of JSON.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0.1, max=31_536_000, metavar="SECONDS", help="Time limit of each cell."),
]

UploadOption = Annotated[
    list[Path] | None,
    typer.Option(exists=True, help="File to upload before the run. A folder is uploaded as a zip."),
]
SessionEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME[=VALUE]",
        help="Environment variable for the code. Without =VALUE, the value comes from this "
        "command's environment, and output does not show it. The code can read it.",
    ),
]


def run(
    *,
    code: Annotated[
        str, typer.Argument(help="Python code, a .py script, a .ipynb notebook, or - for stdin.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT...]", help="What the code finds in sys.argv."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Name of the session. A served pool keeps its variables between calls."),
    ] = None,
    timeout: TimeoutOption = None,
    upload: UploadOption = None,
    download: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files to download after the run, such as '*.csv'."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing images and downloads.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for images and downloads. By default this one."),
    ] = Path(),
    save_notebook: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the executed code and its output to a notebook."),
    ] = None,
    as_json: JsonOption = False,
    isolation: IsolationOption = None,
    env: SessionEnvOption = None,
    env_file: SettingsFileOption = None,
) -> int:
    """Run Python in a session and show its output.

    Output is printed while the code runs, then the value of the last expression. Images are
    saved, and their names printed. The code runs in the embedded pool on this machine, or in the
    session pool of AZURE_SESSION_POOL_MCP_ENDPOINT or AZURE_SESSION_POOL_ENDPOINT.
    """
    del env_file
    options = RunOptions(
        arguments=arguments or (),
        session=session,
        timeout=timeout,
        upload=upload or (),
        download=download or (),
        overwrite=overwrite,
        output=output,
        save_notebook=save_notebook,
        as_json=as_json,
        isolation=isolation,
        env=env or (),
    )
    return run_code(code, options)
