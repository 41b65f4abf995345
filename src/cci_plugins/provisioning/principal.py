"""Who is signed in, as the token itself says."""

from __future__ import annotations

from dataclasses import dataclass

from cci_plugins.azure.claims import decode_claims
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

from .options import Options, PrincipalType


@dataclass(frozen=True, slots=True)
class Principal:
    """Who gets a role.

    Attributes:
        id: Object id in Microsoft Entra.
        type: What it is.
    """

    id: str
    type: PrincipalType


async def resolve_principal(options: Options, arm: ArmClient) -> Principal:
    """Who is to use the pool and the storage: as given, or who is signed in.

    Raises:
        ProvisioningError: The token does not say.
    """
    if options.principal_id:
        return Principal(options.principal_id, options.principal_type or "User")
    claims = decode_claims((await arm.credential.get_token(arm.scope)).token)
    identifier = claims.get("oid")
    if not isinstance(identifier, str) or not identifier:
        raise ProvisioningError(
            "the sign-in does not say who it is, so no role can be given",
            hint="name the object id: --principal-id ID; az ad signed-in-user show --query id",
        )
    kind: PrincipalType = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    return Principal(identifier, options.principal_type or kind)
