"""A server that behaves like each kind of Azure's session pools, faults included."""

from __future__ import annotations

from .emulator import Emulator
from .faults import FAULTS, Faults
from .options import Emulation

__all__ = ["FAULTS", "Emulation", "Emulator", "Faults"]
