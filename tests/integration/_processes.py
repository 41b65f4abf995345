"""The processes that this one has started."""

from pathlib import Path


def list_children() -> set[str]:
    """Return the processes that this one has started, and that still run."""
    threads = Path("/proc/self/task").iterdir()
    pids = {pid for thread in threads for pid in _read(thread / "children").split()}
    states = {pid: _read(Path("/proc", pid, "status")) for pid in pids}
    return {pid for pid, state in states.items() if state and "zombie" not in state}


def _read(path: Path) -> str:
    """Return what a file says, or nothing once its thread or process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
