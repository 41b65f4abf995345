"""What clients rely on in Azure's image and its older API, where our own server differs.

AutoGen's executor lists the packages by `pkg_resources`, which came with setuptools until 2026.
"""

from __future__ import annotations

import pprint
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


def format_old_result(value: Any) -> Any:
    """Return a result as clients of the older form read it.

    A list is the text that Python prints, and nothing is an empty text.
    """
    is_image = isinstance(value, dict) and "base64_data" in value
    if isinstance(value, (list, dict)) and not is_image:
        return pprint.pformat(value, width=79, sort_dicts=False)
    return "" if value is None else value


def add_packages(request: dict[str, Any]) -> dict[str, Any]:
    """Return a run's request, in the older or newer form, whose code finds `pkg_resources`."""
    inner = request.get("properties")
    fields = inner if isinstance(inner, dict) else request
    code = fields.get("code")
    if not isinstance(code, str) or f"import {_MODULE}" not in code:
        return request
    fields = {**fields, "code": f"exec({_SOURCE!r}, {{}})\n{code}"}
    return {**request, "properties": fields} if inner is not None else fields
