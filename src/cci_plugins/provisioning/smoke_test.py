"""The proof that a new pool works: `1+1` in it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import SignIn
from cci_plugins.core.interpreter import CodeInterpreter
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    PoolUnavailableError,
    ProvisioningError,
)
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.remote_pool import PATIENCE
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool

from .deployment import Deployment
from .deployment_run import Watch, Work

_STEP = "trial run"
_RIGHT = "2"


async def try_out(work: Work, deployment: Deployment) -> None:
    """Run `1+1`, again for a while where the role is not known everywhere yet.

    Raises:
        ProvisioningError: The pool does not run it.
    """
    watch = Watch(work.tell, _STEP)
    watch.tell("working", "running 1+1 in the pool; the first run takes up to a minute")
    deadline = time.monotonic() + work.azure.settling.total_seconds()
    while True:
        try:
            text = await _run(work, deployment)
            break
        except (AuthenticationError, PoolUnavailableError) as error:
            if time.monotonic() > deadline:
                raise _failed(error) from error
        except CodeInterpreterError as error:
            raise _failed(error) from error
        watch.waiting("until the new role is known everywhere")
        await anyio.sleep(work.azure.polling.total_seconds())
    if text.strip() != _RIGHT:
        raise ProvisioningError(
            f"{_STEP}: the pool answered {text[:80]!r} to 1+1",
            hint="run: cci run '1+1'",
            step=_STEP,
        )
    watch.tell("kept", "the pool ran 1+1")


async def _run(work: Work, deployment: Deployment) -> str:
    async with CodeInterpreter(_pool(work.azure, work.arm.sign_in, deployment)) as interpreter:
        execution = await interpreter.run_code("1+1")
    return execution.text


def _pool(azure: Azure, sign_in: SignIn, deployment: Deployment) -> SessionPool:
    """The pool, with the same sign-in."""
    credential, patience = _Carried(sign_in), min(PATIENCE, azure.settling)
    if deployment.kind == "python":
        return PlatformSessionPool(
            deployment.mcp_endpoint,
            resource_id=deployment.pool_id,
            credential=credential,
            arm_endpoint=azure.endpoint,
            patience=patience,
        )
    return CustomSessionPool(deployment.pool_endpoint, credential=credential, patience=patience)


class _Carried:
    """The sign-in for the interpreter, whose event loop is another one, in another thread."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in
        self._loop = asyncio.get_running_loop()

    def get_token(self, *scopes: str) -> Any:
        """A token, asked for on the loop that the sign-in belongs to."""
        asked = asyncio.run_coroutine_threadsafe(self._sign_in.get_token(*scopes), self._loop)
        return asked.result()


def _failed(error: CodeInterpreterError) -> ProvisioningError:
    return ProvisioningError(
        f"{_STEP}: {error}", hint=error.hint or "run: cci run '1+1'", step=_STEP
    )
