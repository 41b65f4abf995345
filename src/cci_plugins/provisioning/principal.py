"""Who is signed in, as the token itself says."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from cci_plugins.errors import ProvisioningError

from .arm import Arm
from .options import Options, PrincipalType

_PARTS = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Who gets a role.

    Attributes:
        id: Object id in Microsoft Entra.
        type: What it is.
    """

    id: str
    type: PrincipalType


async def principal_of(options: Options, arm: Arm) -> Principal:
    """Who is to use the pool and the storage: as given, or who is signed in.

    Raises:
        ProvisioningError: The token does not say.
    """
    if options.principal_id:
        return Principal(options.principal_id, options.principal_type or "User")
    claims = _claims((await arm.sign_in.get_token(arm.scope)).token)
    identifier = claims.get("oid")
    if not isinstance(identifier, str) or not identifier:
        raise ProvisioningError(
            "the sign-in does not say who it is, so no role can be given",
            hint="name the object id: --principal-id ID; az ad signed-in-user show --query id",
        )
    kind: PrincipalType = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    return Principal(identifier, options.principal_type or kind)


def _claims(token: str) -> dict[str, Any]:
    """A token's claims. They are not checked: Azure itself checks whoever acts on them."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
