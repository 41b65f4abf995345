"""A fake Azure: Resource Manager, Entra and registry tasks, over HTTPS on loopback.

`Cloud` is the state and its faults, `running` serves it; see `cloud.py`.
"""

from .cloud import Cloud, Fault
from .data_plane import role_gate
from .serving import Running, running

__all__ = ["Cloud", "Fault", "Running", "role_gate", "running"]
