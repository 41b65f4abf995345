"""The processes that this one has started."""

from pathlib import Path


def list_children() -> set[str]:
    """Return the processes that this one has started, and that still run."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = {pid for task in tasks for pid in task.read_text().split()}
    return {pid for pid in pids if "zombie" not in _read_state(pid)}


def _read_state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "zombie"
