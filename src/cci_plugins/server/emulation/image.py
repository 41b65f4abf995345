"""What clients rely on in Azure's image, where the emulator's own Python lacks it.

AutoGen's executor lists the packages by `pkg_resources`, which came with setuptools until 2026.
"""

from __future__ import annotations

from typing import Any

_MODULE = "pkg_resources"
_SOURCE = f"""
import importlib.metadata, importlib.util, sys, types
if {_MODULE!r} not in sys.modules and importlib.util.find_spec({_MODULE!r}) is None:
    module = types.ModuleType({_MODULE!r})
    module.working_set = [
        types.SimpleNamespace(project_name=one.name, key=one.name.lower(), version=one.version)
        for one in importlib.metadata.distributions() if one.name
    ]
    sys.modules[{_MODULE!r}] = module
"""


def add_packages(request: dict[str, Any]) -> dict[str, Any]:
    """Return a run's request, in the older or newer form, whose code finds `pkg_resources`."""
    inner = request.get("properties")
    fields = inner if isinstance(inner, dict) else request
    code = fields.get("code")
    if not isinstance(code, str) or f"import {_MODULE}" not in code:
        return request
    fields = {**fields, "code": f"exec({_SOURCE!r}, {{}})\n{code}"}
    return {**request, "properties": fields} if inner is not None else fields
