"""Names of the packages that code would install by pip or uv."""

from __future__ import annotations

import pytest

from cci_plugins.pools.local.packages.notes import find_installed_names


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("%pip install numpy", ["numpy"]),
        ("!pip3 install -q --upgrade Scikit_Learn 'duckdb>=1'  # both", ["scikit-learn", "duckdb"]),
        ("x = 1\n!uv pip install numpy && echo done", ["numpy"]),
        ("import pip; pip.main(['install', 'a.b==1'])", ["a-b"]),
        ("run([sys.executable, '-m', 'pip', 'install', \"numpy\"])", ["numpy"]),
        ("!pip install numpy\n!pip install -U numpy pandas", ["numpy", "pandas"]),
        ("%pip install https://example.com/a.whl numpy", []),
        ("%pip install ./a.whl", []),
        ("%pip list", []),
        ("print('install')", []),
    ],
)
def test_names_are_found_in_each_way_to_install(code: str, names: list[str]) -> None:
    assert find_installed_names(code) == names
