"""Python packages that sessions have installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

from cci_plugins.errors import ProtocolError

# Packages for data analysis, in the order in which a model reads them.
WELL_KNOWN = (
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "duckdb",
    "scipy",
    "scikit-learn",
    "statsmodels",
    "matplotlib",
    "seaborn",
    "plotly",
    "altair",
    "sympy",
    "networkx",
    "openpyxl",
    "python-docx",
    "python-pptx",
    "pypdf",
    "reportlab",
    "pillow",
    "opencv-python",
    "requests",
    "beautifulsoup4",
    "lxml",
    "torch",
    "tensorflow",
)

# Runs in a session, which may be any Python. The names are normalized as on PyPI.
LIST_CODE = """
def _packages():
    import json, re
    from importlib.metadata import distributions
    found = {}
    for one in distributions():
        about = one.metadata or {}  # each access parses a file
        if name := about.get("Name"):  # of two versions the first is the one that is imported
            found.setdefault(re.sub("[-_.]+", "-", name).lower(), about.get("Version"))
    print(json.dumps(found, sort_keys=True))
_packages()
del _packages
"""


def get_installed_packages() -> tuple[str, ...]:
    """Return the well-known packages that this Python has."""
    return tuple(name for name in WELL_KNOWN if _is_installed(name))


def parse_packages(printed: str) -> Mapping[str, str]:
    """Parse the output of `LIST_CODE`: versions by name, the well-known packages first.

    Args:
        printed: The standard output of the run.

    Raises:
        ProtocolError: The output is not a JSON object.
    """
    try:
        found = json.loads(printed)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProtocolError(
            f"cannot list the packages: the session printed {printed[:80]!r}",
            hint="run the call again",
        )
    versions = {str(name): str(version) for name, version in found.items()}
    first = [name for name in WELL_KNOWN if name in versions]
    return {
        name: versions[name] for name in (*first, *(name for name in versions if name not in first))
    }


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
