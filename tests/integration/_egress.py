"""A helper that runs code in a pool's session."""

from datetime import timedelta


async def run(pool, code: str) -> str:
    """Run code that must not fail, and return its output."""
    execution = await pool.execute("a", code, timeout=timedelta(seconds=60))
    assert execution.error is None, execution.error
    return execution.stdout
