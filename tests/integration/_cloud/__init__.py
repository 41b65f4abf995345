"""A fake Azure: Resource Manager, Entra and registry tasks, over HTTPS on loopback.

`Cloud` has the state and the faults, and `running` serves it. See `cloud.py`.
"""

from .cloud import Cloud, Fault
from .data_plane import role_gate
from .serving import Running, running

__all__ = ["Cloud", "Fault", "Running", "role_gate", "running"]
