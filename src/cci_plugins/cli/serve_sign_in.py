"""Options of `cci serve` for clients that sign in with Microsoft Entra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cci_plugins.common.settings import read_authority_host
from cci_plugins.errors import ConfigurationError

from . import console

if TYPE_CHECKING:
    from cci_plugins.server import EntraSignIn

TenantOption = Annotated[
    str | None,
    typer.Option(
        "--entra",
        metavar="TENANT",
        help="Accept Microsoft Entra tokens of this tenant, and the key. An environment "
        "belongs to the identity that launched it. AZURE_AUTHORITY_HOST names another cloud.",
    ),
]
AudienceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--audience",
        metavar="URI",
        help="Application ID URI or client id that tokens must be for, such as api://CLIENT-ID.",
    ),
]
CallerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--caller",
        metavar="ID",
        help="Object id of a user or service principal, or client id of an application, that may "
        "call. By default every identity of the tenant may.",
    ),
]


def build_sign_in(
    tenant: str | None, audiences: list[str] | None, callers: list[str] | None
) -> EntraSignIn | None:
    """Return the check of tokens, or None without a tenant.

    Raises:
        ConfigurationError: The options do not fit each other, or one is invalid.
    """
    if tenant is None:
        for option, given in (("--audience", audiences), ("--caller", callers)):
            if given:
                raise ConfigurationError(
                    f"{option} {given[0]} works only with sign-in", hint="add --entra TENANT"
                )
        return None
    if not audiences:
        raise ConfigurationError(
            f"--entra {tenant} needs the audience of the tokens",
            hint="add --audience URI, the application's ID URI",
        )
    from cci_plugins.server import EntraSignIn
    from cci_plugins.server.sign_in import AUTHORITY

    authority = read_authority_host() or AUTHORITY
    sign_in = EntraSignIn(tenant, audiences=audiences, callers=callers or (), authority=authority)
    if sign_in.accepts_every_caller:
        console.print_warning(
            f"every identity of the tenant {tenant} that gets a token for {audiences[0]} is "
            "accepted. Name those that may call: --caller ID"
        )
    return sign_in
