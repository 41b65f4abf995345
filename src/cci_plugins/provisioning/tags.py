"""Tags of the resources: who made them, and which Foundry project a pool was connected to."""

from __future__ import annotations

import re

from .options import Options

TAG = "cci-plugins"
# On a pool whose Foundry account or project was named, so that `show` and `down` find it.
FOUNDRY_TAG = "cci-plugins-foundry"
_ACCOUNTS = "Microsoft.CognitiveServices/accounts"
_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/"
    r"Microsoft\.CognitiveServices/accounts/([^/]+)(?:/projects/([^/]+))?",
    re.IGNORECASE,
)
_ACCOUNT_PARTS, _PROJECT_PARTS = 3, 4


def build_tags(options: Options) -> dict[str, str]:
    """Return the tags of every resource. The user's tags cannot replace the owner tag."""
    return {**options.tags, TAG: options.name}


def build_foundry_tag(options: Options) -> dict[str, str]:
    """Return the tag of the pool that names an account or a project, if one is named."""
    named = options.foundry_project or options.foundry_account or ""
    match = _ID.fullmatch(named)
    return {} if match is None else {FOUNDRY_TAG: "/".join(filter(None, match.groups()))}


def parse_foundry_tag(value: str) -> dict[str, str]:
    """Return the option that a pool's tag stands for: an account or a project."""
    parts = [part for part in value.split("/") if part]
    if len(parts) not in {_ACCOUNT_PARTS, _PROJECT_PARTS}:
        return {}
    subscription, group, account = parts[:_ACCOUNT_PARTS]
    identifier = (
        f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{_ACCOUNTS}/{account}"
    )
    if len(parts) == _ACCOUNT_PARTS:
        return {"foundry_account": identifier}
    return {"foundry_project": f"{identifier}/projects/{parts[-1]}"}
