"""Carries out a Dockerfile in clean trees: the instructions that ours uses, and no others."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from . import _clean_tree

dockerfile_parse = pytest.importorskip("dockerfile_parse")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass
class Image:
    """A tree and how to start what is in it.

    Attributes:
        key: Tells whether anything that it was made of has changed.
        args: Build arguments in force.
        user: Who it ends as.
        health: The command that says whether it is well.
    """

    tree: Path
    key: str
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    args: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    ports: tuple[int, ...] = ()
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


class Build:
    """One build of a Dockerfile.

    Args:
        dockerfile: The file.
        context: The folder that it is built from, with its `.dockerignore`.
        cache: Where trees are kept; a stage whose parts are the same is not made again.
    """

    def __init__(self, dockerfile: Path, *, context: Path, cache: Path) -> None:
        content = io.BytesIO(dockerfile.read_bytes())
        parser = dockerfile_parse.DockerfileParser(fileobj=content)
        self._steps = [
            (step["instruction"], step["value"])
            for step in parser.structure
            if step["instruction"] != "COMMENT"
        ]
        self._context = context
        self._files = sorted(_context_files(context))
        self._cache = cache
        self._stages: dict[str, Image] = {}

    def run(self) -> Image:
        """Make every stage; the last one is the image."""
        self._cache.mkdir(parents=True, exist_ok=True)
        outer: dict[str, str] = {}
        image: Image | None = None
        for position, steps in enumerate(self._split(outer)):
            image = self._stage(steps, outer, position)
        assert image is not None
        return image

    def _split(self, outer: dict[str, str]) -> Iterator[list[tuple[str, str]]]:
        """The steps of each stage; arguments before the first go to `outer`."""
        stage: list[tuple[str, str]] = []
        for kind, value in self._steps:
            if kind == "FROM" and stage:
                yield stage
                stage = []
            if kind == "ARG" and not stage:
                outer |= [value.split("=", 1)]
            else:
                stage.append((kind, value))
        yield stage

    def _stage(self, steps: list[tuple[str, str]], outer: dict[str, str], position: int) -> Image:
        base, _, name = _filled(steps[0][1], outer).partition(" AS ")
        start = self._stages.get(base) or self._debian()
        tree = self._cache / (name or f"stage-{position}")
        image = replace(start, tree=tree, key=self._key(start, steps), env={**start.env}, args={})
        marker = tree.with_suffix(".key")
        fresh = marker.is_file() and marker.read_text() == image.key
        if not fresh:
            marker.unlink(missing_ok=True)
            shutil.rmtree(tree, ignore_errors=True)
            _clean_tree.copy(start.tree, tree)
        for kind, value in steps[1:]:
            self._step(image, kind, value, fresh=fresh)
        marker.write_text(image.key)
        self._stages[name] = image
        return image

    def _debian(self) -> Image:
        """What stands for any base image."""
        tree = self._cache / _clean_tree.SUITE
        if not tree.is_dir():
            _clean_tree.debian(tree)
        return Image(tree, _clean_tree.SUITE)

    def _key(self, start: Image, steps: list[tuple[str, str]]) -> str:
        digest = hashlib.sha256(start.key.encode())
        for kind, value in steps:
            digest.update(f"{kind} {value}\n".encode())
            if kind != "COPY":
                continue
            if (stage := _from_stage(value)) is not None:
                digest.update(self._stages[stage].key.encode())
            else:
                for file in self._chosen(value.split()[:-1]):
                    digest.update(f"{file}\n".encode() + (self._context / file).read_bytes())
        return digest.hexdigest()

    def _step(self, image: Image, kind: str, value: str, *, fresh: bool) -> None:
        if kind == "ARG":
            image.args |= [_filled(value, image.args).split("=", 1)]
        elif kind == "ENV":
            image.env |= [word.split("=", 1) for word in shlex.split(value)]
        elif kind == "WORKDIR":
            image.workdir = value
        elif kind == "ENTRYPOINT":
            image.entrypoint = json.loads(value)
        elif kind == "HEALTHCHECK":
            image.health = json.loads(value.partition(" CMD ")[2])
        elif kind == "USER":
            image.user = value
        elif kind == "EXPOSE":
            image.ports = (int(value),)
        elif kind not in {"COPY", "LABEL", "RUN"}:
            raise AssertionError(f"this executor does not know {kind}")
        elif kind != "LABEL" and not fresh:
            self._change(image, kind, value)

    def _change(self, image: Image, kind: str, value: str) -> None:
        if kind == "RUN":
            _inside(image.tree, image.workdir).mkdir(parents=True, exist_ok=True)
            env = {**image.args, **image.env, "HOME": "/root"}
            command = ["/bin/sh", "-c", value]
            _clean_tree.run(image.tree, command, env=env, cwd=image.workdir)
        elif (stage := _from_stage(value)) is not None:
            _, source, target = value.split()
            _inside(image.tree, target).parent.mkdir(parents=True, exist_ok=True)
            _clean_tree.copy(_inside(self._stages[stage].tree, source), _inside(image.tree, target))
        else:
            *sources, target = value.split()
            self._copy_context(sources, _inside(image.tree, target))

    def _copy_context(self, sources: list[str], target: Path) -> None:
        whole = sources == ["."]
        for file in self._chosen(sources):
            path = target / (file if whole else Path(file).name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            shutil.copy(self._context / file, path)

    def _chosen(self, sources: list[str]) -> list[str]:
        """The files of the context that a COPY names: all, or some one by one."""
        if sources == ["."]:
            return self._files
        missing = set(sources) - set(self._files)
        assert not missing, f"not in the context: {missing}"
        return sources


def _from_stage(value: str) -> str | None:
    first = value.split(maxsplit=1)[0]
    return first.removeprefix("--from=") if first.startswith("--from=") else None


def _inside(tree: Path, path: str) -> Path:
    return tree / path.lstrip("/")


def _filled(text: str, values: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def _context_files(context: Path) -> Iterator[str]:
    """What `.dockerignore` lets through: `*`, then `!` names, then `**/` names left out."""
    lines = (context / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    left_out = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    for rule in rules[1:]:
        if not rule.startswith("!"):
            assert rule.startswith("**/"), rule
            continue
        root = context / rule[1:]
        for path in root.rglob("*") if root.is_dir() else [root]:
            name = path.relative_to(context)
            hidden = any(fnmatch.fnmatch(part, rule) for part in name.parts for rule in left_out)
            if path.is_file() and not hidden:
                yield name.as_posix()
