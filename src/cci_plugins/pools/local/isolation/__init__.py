"""Isolation backends for kernels: the contract, and the choice among them."""

from .base import Isolation, KernelSpec, Sandbox
from .selection import choose, get_first_choice

__all__ = ["Isolation", "KernelSpec", "Sandbox", "choose", "get_first_choice"]
