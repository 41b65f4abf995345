"""Names and specifications of packages. `packaging` is loaded when the first one is parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def canonicalize_name(name: str) -> str:
    """Return the normal form of a package's name."""
    from packaging.utils import canonicalize_name as canonicalize  # noqa: PLC0415 - see above

    return canonicalize(name)


def parse_requirement(text: str) -> Requirement | None:
    """Parse the specification of a package, or return None if it is anything else."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - see above

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None
