"""bubblewrap's command line for one session; the order of its parts matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.pools.local.isolation.interpreter import Interpreter
from cci_plugins.pools.local.isolation.kernel_config import build_environment

HOME, SCRATCH, DATA, SHARED, SOCKET_FOLDER, BOOT = (
    "/home/session",
    "/tmp",  # noqa: S108 - inside the sandbox, a file system of its own
    "/mnt/data",
    "/dev/shm",  # noqa: S108
    "/run/k",
    "/run/cci",
)
PLAIN_UID = 1000
SHARED_BYTES, HOME_BYTES, SOCKET_BYTES = 128 * MIB, 64 * MIB, MIB
_SIZED_TMPFS, _NO_NESTED_NAMESPACES = (0, 7), (0, 8)
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/mime.types",
)


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """An installed bubblewrap."""

    path: str
    version: tuple[int, ...]

    @property
    def supports_tmpfs_size(self) -> bool:
        """Whether it can limit the size of a file system in memory."""
        return self.version >= _SIZED_TMPFS

    def command(
        self,
        interpreter: Interpreter,
        limits: SandboxLimits,
        *,
        uid: int | None,
        files: Mapping[str, int],
        info: int,
        program: int,
    ) -> list[str]:
        """Build the argument vector.

        Args:
            interpreter: The Python inside.
            limits: Sizes of the file systems.
            uid: The user id that the boot code will take, when we are root; else None.
            files: Files to make inside, each with a descriptor of its content.
            info: Where bubblewrap writes the process id of the sandbox's first process.
            program: Descriptor of the seccomp program.
        """
        return [
            self.path,
            *self._build_namespace_arguments(root=uid is not None),
            *_build_system_arguments(),
            *self._build_tmpfs_arguments(SCRATCH, limits.scratch_bytes, "1777"),
            *self._build_tmpfs_arguments(HOME, HOME_BYTES),
            *self._build_tmpfs_arguments(SHARED, SHARED_BYTES, "1777"),
            # after the tmpfs mounts: a virtual environment may lie in /tmp
            *_build_parent_arguments(interpreter.folders),
            *(part for folder in interpreter.folders for part in ("--ro-bind", folder, folder)),
            *self._build_tmpfs_arguments(DATA, limits.disk_bytes),
            *self._build_tmpfs_arguments(SOCKET_FOLDER, SOCKET_BYTES),
            *(
                part
                for place, content in files.items()
                for part in ("--perms", "0444", "--file", str(content), place)
            ),
            *_build_environment_arguments(interpreter),
            *("--chdir", DATA, "--info-fd", str(info), "--seccomp", str(program)),
            # without these, / and /dev are disks in memory without a limit
            *("--remount-ro", "/dev", "--remount-ro", "/"),
            *("--", interpreter.executable, "-I", f"{BOOT}/boot.py", f"{BOOT}/session.json"),
        ]

    def _build_namespace_arguments(self, *, root: bool) -> list[str]:
        """New namespaces and no rights; real root keeps two, for boot.py to give itself up."""
        parts = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        parts += ["--unshare-net", "--hostname", "session", "--die-with-parent", "--new-session"]
        parts += ["--clearenv", "--cap-drop", "ALL"]
        if root:
            return [*parts, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        parts += ["--unshare-user", "--uid", str(PLAIN_UID), "--gid", str(PLAIN_UID)]
        return parts + ["--disable-userns"] * (self.version >= _NO_NESTED_NAMESPACES)

    def _build_tmpfs_arguments(self, place: str, size: int, mode: str = "0777") -> list[str]:
        bound = ["--size", str(size)] if self.supports_tmpfs_size else []
        return ["--perms", mode, *bound, "--tmpfs", place]


def _build_system_arguments() -> list[str]:
    """The machine's programs and libraries, /proc and a small /dev."""
    parts = ["--ro-bind", "/usr", "/usr"]
    for place in ("/etc", "/home", "/mnt", "/run", BOOT):
        parts += ["--perms", "0755", "--dir", place]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store"):
        place = f"/{name}"
        if Path(place).is_symlink():
            parts += ["--symlink", str(Path(place).readlink()), place]
        elif Path(place).is_dir():
            parts += ["--ro-bind", place, place]
    for file in _SYSTEM_FILES:
        parts += ["--ro-bind-try", file, file]
    return [*parts, "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]


def _build_parent_arguments(folders: tuple[str, ...]) -> list[str]:
    """Make the folders above these by ourselves: bubblewrap would let nobody but root in."""
    above = {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    made = sorted(above - {"/", SCRATCH, HOME, SHARED})
    return [part for place in made for part in ("--perms", "0755", "--dir", place)]


def _build_environment_arguments(interpreter: Interpreter) -> list[str]:
    values = build_environment(HOME, SCRATCH, interpreter.executable)
    return [part for name, value in values.items() for part in ("--setenv", name, value)]


def build_account_files(uid: int) -> dict[str, bytes]:
    """The few files of /etc that name lookups need."""
    return {
        "/etc/passwd": f"session:x:{uid}:{uid}::{HOME}:/bin/sh\n".encode(),
        "/etc/group": f"session:x:{uid}:\n".encode(),
        "/etc/hosts": b"127.0.0.1 localhost session\n::1 localhost\n",
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    }
