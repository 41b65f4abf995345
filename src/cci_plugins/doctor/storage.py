"""Checks of the storage account that larger files are staged in."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio.to_thread
import httpx

from cci_plugins.core.interpreter import build_file_options
from cci_plugins.in_session.transfer import transfer

from .check import Check
from .context import Context
from .findings import Outcome, SkipCheckError, report_failure, report_ok
from .reaching import reach

if TYPE_CHECKING:
    from cci_plugins.files.blob import BlobStorage

_CONTENT = 1024
_OK = 200


def _open_storage(context: Context) -> BlobStorage:
    storage = build_file_options(context.settings, credential=context.credential).storage
    if storage is None:
        raise SkipCheckError("no storage account is configured")
    for value in (context.settings.storage_account, context.settings.storage_container):
        context.mask.name("storage", value or "")
    return storage


async def _check_reachable(context: Context) -> Outcome:
    answer = await _send_request(context, "?comp=list")
    return report_ok(f"the storage account answers ({answer.status_code})")


async def _check_private(context: Context) -> Outcome:
    """Whether the container is shut to who has neither a link nor a role."""
    container = context.settings.storage_container
    answer = await _send_request(context, f"/{container}?restype=container&comp=list")
    if answer.status_code == _OK:
        return report_failure(
            "anybody can list and read the container",
            "az storage account update --allow-blob-public-access false -n ACCOUNT -g GROUP",
        )
    return report_ok("the container is shut to others")


async def _send_request(context: Context, what: str) -> httpx.Response:
    url = f"{_open_storage(context).url}{what}"
    return await reach(url, "the storage account", ca=context.settings.storage_ca_file)


async def _check_sign(context: Context) -> Outcome:
    """Whether links can be signed: by the account's key, or one of user delegation."""
    storage = _open_storage(context)
    try:
        async with storage.staged(_CONTENT) as blob:
            await blob.link("r")
    finally:
        await storage.aclose()
    how = "the account's key" if context.settings.storage_key else "user delegation"
    return report_ok(f"links can be signed by {how}")


async def _check_write_read(context: Context) -> Outcome:
    storage = _open_storage(context)
    content = token_hex(_CONTENT).encode()
    try:
        async with storage.staged(len(content)) as blob:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                sent, back = Path(folder, "sent"), Path(folder, "back")
                sent.write_bytes(content)  # noqa: ASYNC240 - 2 KiB
                job: dict[str, object] = {"seconds": 20, "ca": storage.ca}
                put = {"verb": "put", "url": (await blob.link("cw")).reveal(), "path": str(sent)}
                wrote = await _transfer_file(job | put)
                get = {"verb": "get", "url": (await blob.link("r")).reveal(), "path": str(back)}
                read = wrote or await _transfer_file(job | get)
                same = not read and back.read_bytes() == content  # noqa: ASYNC240 - the same
    finally:
        await storage.aclose()
    if wrote or read:
        verb, words = ("written", wrote) if wrote else ("read", read)
        return report_failure(
            f"a blob could not be {verb} by a link: {words}",
            "let this machine's address through the account's firewall: "
            "az storage account network-rule add -n ACCOUNT -g GROUP --ip-address IP"
            if "403" in words
            else "make the container: az storage container create -n CONTAINER --account-name "
            "ACCOUNT --auth-mode login",
        )
    if not same:
        return report_failure(
            "a blob came back other than it was written", "check what HTTPS_PROXY names"
        )
    return report_ok("a blob was written and read by links, and deleted")


async def _transfer_file(job: dict[str, object]) -> str:
    """Move a file by a link; empty, or why not."""
    report = await anyio.to_thread.run_sync(partial(transfer, job, lambda _: None))
    return str(report.get("failed") or "")


_NETWORK = "check AZURE_STORAGE_ACCOUNT, the network and HTTPS_PROXY"
CHECKS = (
    Check("storage.reachable", _check_reachable, _NETWORK, ("local.settings", "local.versions")),
    Check("storage.private", _check_private, _NETWORK, ("storage.reachable",)),
    Check("storage.sign", _check_sign, _NETWORK, ("storage.reachable", "auth.sign-in")),
    Check("storage.write-read", _check_write_read, _NETWORK, ("storage.sign", "clock.skew")),
)
