"""The key of a pool's MCP server: fetched when it is needed, and made anew."""

from __future__ import annotations

from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from . import resources, versions
from .arm import Arm
from .compare import lower
from .options import Azure, Options
from .progress import Progress, Tell


async def fetch_key(arm: Arm, pool_id: str) -> str:
    """The key of a pool.

    Raises:
        ProvisioningError: The pool has none, or a role is missing.
    """
    return await _key(arm, f"{pool_id}/fetchMcpServerCredentials", "key")


async def rotate(options: Options, azure: Azure, tell: Tell) -> None:
    """Make a new key. Azure may still take the old one for five minutes.

    Raises:
        ProvisioningError: The pool has no key, or a role is missing.
        AuthenticationError: The sign-in failed.
    """
    pool = resources.pool(options)
    async with Arm(azure, options.subscription) as arm:
        tell(Progress("key", "working", f"making a new key for session pool {pool.name}"))
        await _key(arm, f"{pool.id}/rotateMcpServerCredentials", "key")
    tell(Progress("key", "updated", "the pool has a new key; the old one may work 5 minutes more"))


async def _key(arm: Arm, path: str, step: str) -> str:
    try:
        found = await arm.post(path, versions.APP, step=step)
    except ProvisioningError as error:
        if error.code != "SessionMCPServerNotEnabled":
            raise
        raise ProvisioningError(
            f"{step}: this pool has no MCP server, and so no key",
            hint="a custom pool is opened by signing in; see cci provision show",
            code=error.code,
            step=step,
        ) from None
    key = lower(found).get("apikey")
    if not isinstance(key, str) or not key:
        raise ProvisioningError(f"{step}: Azure answered without a key", step=step)
    know(key)
    return key
