"""Checks of everything from this machine to a run in the pool, with a fix for each failure.

```python
from cci_plugins.doctor import diagnose


async def report() -> None:
    async for finding in diagnose(local_only=True):
        print(finding.id, finding.status, finding.message)
```
"""

from .engine import CHECKS, diagnose
from .findings import Finding, Status

__all__ = ["CHECKS", "Finding", "Status", "diagnose"]
