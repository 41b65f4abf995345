"""Isolation backends for kernels: the contract, and the choice among them."""

from .base import Isolation, KernelSpec, Sandbox
from .selection import choose

__all__ = ["Isolation", "KernelSpec", "Sandbox", "choose"]
