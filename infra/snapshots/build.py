"""Rebuild the snapshots of the templates with the Bicep compiler, or check that they are current.

`python infra/snapshots/build.py` writes. With `--check` it writes nothing, and also fails if the
compiler or its linter warns, or if a file is not in the compiler's format. Without a compiler it
skips: the digest of the templates then lets a test notice snapshots that are out of date.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
INFRA = FOLDER.parent
DIGEST = "digest.txt"
# What a deployment would get from Azure: it only has to be the same every time.
SCOPE = {
    "subscription-id": "00000000-0000-0000-0000-000000000001",
    "resource-group": "group",
    "tenant-id": "22222222-2222-4222-8222-222222222222",
    "location": "eastus",
    "deployment-name": "main",
}


def find_compiler() -> str | None:
    """Return the path of the Bicep compiler, or None."""
    shared = INFRA.parents[1] / "shared" / "tools" / "bicep"
    for candidate in (shutil.which("bicep"), shared, Path("/work/shared/tools/bicep")):
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    return None


def list_sources(infra: Path = INFRA) -> list[Path]:
    """Return the files that the snapshots are made of."""
    modules = sorted((infra / "modules").glob("*.bicep"))
    return [infra / "main.bicep", *modules, *sorted((infra / "snapshots").glob("*.bicepparam"))]


def compute_digest(infra: Path = INFRA) -> str:
    """Return the digest of those files, whatever their line endings are."""
    digest = hashlib.sha256()
    for path in list_sources(infra):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(infra).as_posix()}\0{len(content)}\0".encode() + content)
    return f"{digest.hexdigest()}\n"


def build_snapshots(compiler: str, infra: Path) -> dict[str, str]:
    """Build every snapshot in a copy of `infra`, and return their texts by file name."""
    choices = sorted((infra / "snapshots").glob("*.bicepparam"))
    options = [part for name, value in SCOPE.items() for part in (f"--{name}", value)]

    def build(path: Path) -> str:
        run(compiler, "snapshot", str(path), "--mode", "overwrite", *options)
        return format_json(json.loads(path.with_suffix(".snapshot.json").read_text("utf-8")))

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        texts = {
            f"{path.stem}.snapshot.json": text
            for path, text in zip(choices, executor.map(build, choices), strict=True)
        }
    template = json.loads(run(compiler, "build", str(infra / "main.bicep"), "--stdout"))
    return {**texts, "main.json": format_json(template), DIGEST: compute_digest(infra)}


def find_faults(compiler: str, infra: Path) -> list[str]:
    """Return the warnings of the compiler, and the files that are not in its format."""
    faults = run(compiler, "lint", str(infra / "main.bicep"), check=False).splitlines()
    texts = {path: path.read_text("utf-8") for path in list_sources(infra)}
    format_sources(compiler, infra)
    for path, text in texts.items():
        if path.read_text("utf-8") != text:
            faults.append(f"{path.relative_to(infra)}: not formatted; run: make infra")
    return list(dict.fromkeys(line.replace(f"{infra}/", "") for line in faults if line.strip()))


def format_sources(compiler: str, infra: Path) -> None:
    """Write the templates and parameters in the compiler's format."""
    run(compiler, "format", "--pattern", f"{infra}/**/*.bicep")
    run(compiler, "format", "--pattern", f"{infra}/snapshots/*.bicepparam")


def format_json(value: Any) -> str:
    """Return a value as readable JSON that is the same with every version of the compiler."""
    return json.dumps(_without_generator(value), indent=2, sort_keys=True) + "\n"


def _without_generator(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_generator(item)
            for name, item in value.items()
            if name != "metadata" or "_generator" not in item
        }
    return [_without_generator(item) for item in value] if isinstance(value, list) else value


def run(compiler: str, *arguments: str, check: bool = True) -> str:
    """Run the compiler and return what it prints. A failure prints its messages and ends this."""
    done = subprocess.run([compiler, *arguments], capture_output=True, text=True)  # noqa: S603, PLW1510
    if check and done.returncode:
        sys.exit(f"bicep {' '.join(arguments[:2])}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def write(compiler: str) -> None:
    """Format the templates and write every snapshot."""
    format_sources(compiler, INFRA)
    for name, text in build_snapshots(compiler, INFRA).items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


def check(compiler: str) -> int:
    """Print what is wrong or out of date. Return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "infra"
        shutil.copytree(INFRA, copy)
        faults = find_faults(compiler, copy)
        built = {} if faults else build_snapshots(compiler, copy)
    for name, text in built.items():
        path = FOLDER / name
        old = path.read_text("utf-8") if path.is_file() else ""
        changes = difflib.unified_diff(
            old.splitlines(), text.splitlines(), name, f"{name} as built", lineterm="", n=1
        )
        faults += list(changes)[:40]
    left = {path.name for path in FOLDER.glob("*.snapshot.json")} - set(built) if built else set()
    faults += [f"{name}: no .bicepparam of this name" for name in sorted(left)]
    for line in faults:
        print(line)
    if built and faults:
        print("the snapshots are out of date; run: make infra")
    return 1 if faults else 0


def main(arguments: list[str]) -> int:
    """Write the snapshots, or check them with `--check`."""
    compiler = find_compiler()
    if compiler is None:
        print("infra: no Bicep compiler found, so the templates were not compiled (skipped)")
        return 0 if "--check" in arguments else 1
    if "--check" in arguments:
        return check(compiler)
    write(compiler)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
