"""A Debian root made from nothing but the distribution's packages, and programs run in it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
_PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf")
_PIP_WORDS = ("cert", "index-url", "extra-index-url", "trusted-host", "timeout")
_HOST = "/run/host"


def debian(target: Path) -> None:
    """Make a root with Python and its certificates; skip where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a Debian root")
    for tool in ("debootstrap", "bwrap", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    unfinished = target.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    made = subprocess.run(
        [
            *("debootstrap", "--variant=minbase", "--include=python3,ca-certificates"),
            *(SUITE, str(unfinished), _mirror()),
        ],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"debootstrap failed: {(made.stdout + made.stderr)[-500:]}")
    for archive in (unfinished / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    unfinished.rename(target)


def copy(source: Path, target: Path) -> None:
    """Copy a tree with its owners and modes.

    Both share their files, to be quick: what installs packages replaces files and rewrites none.
    """
    subprocess.run(["cp", "-al", source, target], check=True)


def run(tree: Path, command: Sequence[str], *, env: Mapping[str, str], cwd: str) -> None:
    """Run a step of a build in a tree, with this machine's network and package indexes."""
    certificates, extra = _indexes()
    apt = _apt_conf(tree)
    done = subprocess.run(
        [
            *("bwrap", "--bind", str(tree), "/", "--proc", "/proc", "--dev", "/dev"),
            *("--tmpfs", "/run", "--dir", _HOST, "--ro-bind", str(apt), f"{_HOST}/apt.conf"),
            *("--ro-bind", "/etc/resolv.conf", "/etc/resolv.conf"),
            *(("--ro-bind", certificates, f"{_HOST}/cert.pem") if certificates else ()),
            *(
                "--unshare-pid",
                "--die-with-parent",
                "--cap-add",
                "ALL",
                "--chdir",
                cwd,
                "--clearenv",
            ),
            *variables({**extra, "APT_CONFIG": f"{_HOST}/apt.conf", **env}),
            *("--", *command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o022,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"


def variables(env: Mapping[str, str]) -> Iterator[str]:
    """Environment variables as arguments of bubblewrap."""
    for name, value in env.items():
        yield from ("--setenv", name, value)


def _mirror() -> str:
    """The Debian mirror that this machine itself uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True
    )
    places = (line.rstrip("/") for line in listed.stdout.splitlines())
    return next((place for place in places if place.endswith("/debian")), MIRROR)


def _apt_conf(tree: Path) -> Path:
    """How this machine reaches its mirror: proxies, and how strict it is about dates."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    kept = ("Acquire::http", "Acquire::Check")
    path = tree.parent / "apt.conf"
    path.write_text(
        "".join(f"{line}\n" for line in dump.stdout.splitlines() if line.startswith(kept))
    )
    return path


def _indexes() -> tuple[str | None, dict[str, str]]:
    """The certificates and environment by which pip reaches this machine's package index."""
    settings: dict[str, str] = {}
    for name in _PIP_FILES:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(Path(name).expanduser())
        settings |= {
            f"PIP_{word.upper().replace('-', '_')}": parser["global"][word]
            for word in _PIP_WORDS
            if parser.has_option("global", word)
        }
    settings |= {
        name: value for name, value in os.environ.items() if name in settings or _reaches(name)
    }
    settings = {name: value for name, value in settings.items() if "file:" not in value}
    certificates = settings.get("PIP_CERT")
    if certificates is not None:
        settings["PIP_CERT"] = f"{_HOST}/cert.pem"
    return certificates, settings


def _reaches(name: str) -> bool:
    pip = {f"PIP_{word.upper().replace('-', '_')}" for word in _PIP_WORDS}
    return name in pip or name.lower() in {"http_proxy", "https_proxy", "no_proxy"}
