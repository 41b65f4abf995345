"""Checks of the storage account in which larger files are staged."""

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

from .context import Check, Context
from .findings import Outcome, SkipCheckError
from .reachability import reach

if TYPE_CHECKING:
    from cci_plugins.files.blob import BlobStorage

_CONTENT = 1024
_OK = 200


def _open_storage(context: Context) -> BlobStorage:
    storage = build_file_options(context.settings, credential=context.credential).storage
    if storage is None:
        raise SkipCheckError("no storage account is configured")
    for value in (context.settings.storage_account, context.settings.storage_container):
        context.mask.hide_name("storage", value or "")
    return storage


async def _check_reachable(context: Context) -> Outcome:
    """Check that the account answers, and that the SDK for it is installed."""
    from cci_plugins.files.blob import is_sdk_installed

    _open_storage(context)
    if not is_sdk_installed():
        return Outcome.failed(
            "AZURE_STORAGE_ACCOUNT is set, but azure-storage-blob is not installed",
            'pip install "cci-plugins[azure]"',
        )
    answer = await _send_request(context, "?comp=list")
    return Outcome.ok(f"the storage account answers ({answer.status_code})")


async def _check_private(context: Context) -> Outcome:
    """Check that the container cannot be read without a link or a role."""
    container = context.settings.storage_container
    answer = await _send_request(context, f"/{container}?restype=container&comp=list")
    if answer.status_code == _OK:
        return Outcome.failed(
            "anyone can list and read the container",
            "az storage account update --allow-blob-public-access false -n ACCOUNT -g GROUP",
        )
    return Outcome.ok("the container is private")


async def _send_request(context: Context, path: str) -> httpx.Response:
    url = f"{_open_storage(context).url}{path}"
    return await reach(url, "the storage account", ca=context.settings.storage_ca_file)


async def _check_sign(context: Context) -> Outcome:
    """Check that links can be signed, by the account's key or by user delegation."""
    storage = _open_storage(context)
    try:
        async with storage.staged(_CONTENT) as blob:
            await blob.link("r")
    finally:
        await storage.aclose()
    signer = "the account's key" if context.settings.storage_key else "user delegation"
    return Outcome.ok(f"links can be signed by {signer}")


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
                write_error = await _transfer_file(job | put)
                get = {"verb": "get", "url": (await blob.link("r")).reveal(), "path": str(back)}
                read_error = write_error or await _transfer_file(job | get)
                is_same = not read_error and back.read_bytes() == content  # noqa: ASYNC240 - 2 KiB
    finally:
        await storage.aclose()
    if write_error or read_error:
        verb, reason = ("written", write_error) if write_error else ("read", read_error)
        return Outcome.failed(
            f"a blob could not be {verb} by a link: {reason}",
            "allow this machine's address in the account's firewall: "
            "az storage account network-rule add -n ACCOUNT -g GROUP --ip-address IP"
            if "403" in reason
            else "create the container: az storage container create -n CONTAINER --account-name "
            "ACCOUNT --auth-mode login",
        )
    if not is_same:
        return Outcome.failed(
            "a blob that was read differs from what was written", "check the proxy of HTTPS_PROXY"
        )
    return Outcome.ok("a blob was written and read by links, and deleted")


async def _transfer_file(job: dict[str, object]) -> str:
    """Transfer a file by a link. Return the reason of a failure, or "" after a success."""
    report = await anyio.to_thread.run_sync(partial(transfer, job, lambda _: None))
    return str(report.get("failed") or "")


_NETWORK = "check AZURE_STORAGE_ACCOUNT, the network and HTTPS_PROXY"
CHECKS = (
    Check("storage.reachable", _check_reachable, _NETWORK, ("local.settings", "local.versions")),
    Check("storage.private", _check_private, _NETWORK, ("storage.reachable",)),
    Check("storage.sign", _check_sign, _NETWORK, ("storage.reachable", "auth.sign-in")),
    Check("storage.write-read", _check_write_read, _NETWORK, ("storage.sign", "clock.skew")),
)
