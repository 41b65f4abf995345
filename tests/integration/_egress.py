"""One run in a pool's session."""

from datetime import timedelta


async def run(pool, code: str) -> str:
    """What the code printed; it must not fail."""
    execution = await pool.execute("a", code, timeout=timedelta(seconds=60))
    assert execution.error is None, execution.error
    return execution.stdout
