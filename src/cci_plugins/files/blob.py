"""Files staged in Azure Blob Storage: one random blob for each transfer, reached by SAS."""

from __future__ import annotations

import base64
import inspect
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Protocol, Self
from urllib.parse import quote, urlsplit

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FileTransferError,
)
from cci_plugins.redaction import know

from .sas import SecretUrl

try:
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from azure.storage.blob import UserDelegationKey, generate_blob_sas
    from azure.storage.blob.aio import BlobServiceClient, ContainerClient, ExponentialRetry
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"staging files in Blob Storage needs {missing.name}",
        hint='pip install "cci-plugins[azure]"',
    ) from missing

Permission = Literal["r", "cw"]

SKEW = timedelta(minutes=5)  # a SAS begins so long ago, for clocks that are behind
SHORTEST, LONGEST = timedelta(minutes=10), timedelta(hours=1)
SLOWEST = 1 << 20  # bytes a second that a transfer is given time for
KEY_LASTS = timedelta(hours=2)
LONGEST_SHARE = timedelta(days=7)  # of a user delegation key (learn.microsoft.com)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
ROLES = (
    "give the identity the roles Storage Blob Data Contributor on the container and Storage Blob "
    "Delegator on the account"
)


class Credential(Protocol):
    """A credential of azure-identity, blocking or asynchronous."""

    def get_token(self, *scopes: str) -> Any:
        """A token for these scopes, or an awaitable of one."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where an account's blobs are.

    Attributes:
        url: The blob service, without a slash at the end.
        account: Name of the account.
    """

    url: str
    account: str

    @classmethod
    def of(cls, account: str) -> Address:
        """Read an account's name, or the URL of its blob service.

        Raises:
            ConfigurationError: It is neither, or sends signatures in the clear.
        """
        if "://" not in account:
            if not (account.isascii() and account.isalnum()):
                raise ConfigurationError(  # it is not shown: a connection string has a key
                    "this is no name of a storage account",
                    hint="set AZURE_STORAGE_ACCOUNT to its name, or to the URL of its blob service",
                )
            return cls(f"https://{account}.blob.core.windows.net", account)
        try:
            parts = urlsplit(account.rstrip("/"))
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ConfigurationError("the storage account's URL cannot be read") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
            raise ConfigurationError("the storage account must be reached by https")
        if parts.query or parts.fragment or parts.username is not None or not host:
            raise ConfigurationError("the storage account's URL must have no query and no password")
        path = parts.path.strip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path}", path or host.partition(".")[0])


class BlobStorage:
    """One container of a storage account, for files on their way.

    A blob is made for each transfer and deleted after it; what reaches it is a SAS for that blob
    alone, of a user delegation key, or of the account's key where one is given.

    Args:
        account: Name of the account, or the URL of its blob service.
        container: Name of the container, which must be there.
        credential: A credential of azure-identity; `DefaultAzureCredential` when None.
        key: The account's key, instead of a credential.
        ip: Address or range that signatures are good for, such as `20.1.2.3-20.1.2.9`.
        ca_file: Certificates to trust beside the system's, here and in sessions.

    Raises:
        ConfigurationError: The account cannot be right.
    """

    def __init__(
        self,
        account: str,
        container: str,
        *,
        credential: Credential | None = None,
        key: str | None = None,
        ip: str | None = None,
        ca_file: str | Path | None = None,
    ) -> None:
        self._address = Address.of(account)
        self._container = container
        self._credential = credential
        self._key = key
        if key is not None:
            know(key)
            _check_key(key)
        self._ip = ip
        self._ca_file = ca_file
        self.ca = None if ca_file is None else Path(ca_file).read_text(encoding="ascii")
        self._opened: BlobServiceClient | None = None
        self._closers: list[Any] = []
        self._delegation: tuple[UserDelegationKey, datetime] | None = None
        self._turn = anyio.Lock()

    @property
    def url(self) -> str:
        """The account's blob service."""
        return self._address.url

    def __repr__(self) -> str:
        return f"BlobStorage({self._address.url!r}, {self._container!r})"

    @asynccontextmanager
    async def staged(self, size: int) -> AsyncGenerator[StagedBlob]:
        """A blob for one transfer, deleted in the end.

        Args:
            size: Bytes to move; larger ones get more time.
        """
        blob = StagedBlob(self, token_hex(16), lifetime(size))
        try:
            yield blob
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                await self.delete(blob.name)
            blob.forget()

    async def link(
        self, name: str, permission: Permission, lasts: timedelta, *, download_as: str | None = None
    ) -> SecretUrl:
        """Sign one blob's address.

        Args:
            name: The blob.
            permission: `r`, or `cw` to make and write it.
            lasts: For how long.
            download_as: The name that a browser saves it by.

        Raises:
            AuthenticationError: The account lets nobody sign.
        """
        return await event_loop.carry(self._link, name, permission, lasts, download_as)

    async def delete(self, name: str) -> None:
        """Delete a blob; one that is not there is no error, and a failure is only logged."""
        await event_loop.carry(self._delete, name)

    async def aclose(self) -> None:
        """Close the connections."""
        await event_loop.carry(self._close)

    async def _link(
        self, name: str, permission: Permission, lasts: timedelta, download_as: str | None
    ) -> SecretUrl:
        now = datetime.now(UTC)
        secret: dict[str, Any] = (
            {"account_key": self._key}
            if self._key is not None
            else {"user_delegation_key": await self._delegation_key(now + lasts)}
        )
        shown = f"attachment; filename*=UTF-8''{quote(download_as)}" if download_as else None
        signature = generate_blob_sas(
            self._address.account,
            self._container,
            name,
            permission=permission,
            start=now - SKEW,
            expiry=now + lasts,
            ip=self._ip,
            protocol="https" if self._address.url.startswith("https:") else None,
            content_disposition=shown,
            **secret,
        )
        return SecretUrl(f"{self._address.url}/{self._container}/{quote(name)}?{signature}")

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
        for credential in self._closers:
            await credential.close()
        self._closers = []

    async def _delegation_key(self, until: datetime) -> UserDelegationKey:
        """One key for all signatures, as long as it lasts."""
        async with self._turn:
            if self._delegation is None or self._delegation[1] < until:
                now = datetime.now(UTC)
                expiry = max(now + KEY_LASTS, until)
                with _plainly("sign"):
                    key = await self._service().get_user_delegation_key(now - SKEW, expiry)
                know(key.value or "")
                self._delegation = (key, expiry)
            return self._delegation[0]

    async def _delete(self, name: str) -> None:
        try:
            with _plainly("delete"):
                await self._blobs().delete_blob(name, delete_snapshots="include")
        except FileNotFoundError:
            return
        except CodeInterpreterError as error:
            logger.warning("a staged file could not be deleted: %s", error)

    def _blobs(self) -> ContainerClient:
        return self._service().get_container_client(self._container)

    def _service(self) -> BlobServiceClient:
        if self._opened is None:
            # the SDK's own begins with 15 s; here somebody waits for a deletion
            patience = ExponentialRetry(
                initial_backoff=1, increment_base=2, retry_total=2, random_jitter_range=1
            )
            options: dict[str, Any] = {"retry_policy": patience}
            if self._ca_file is not None:
                options["connection_verify"] = str(self._ca_file)
            self._opened = BlobServiceClient(
                self._address.url, credential=self._key or self._sign_in(), **options
            )
        return self._opened

    def _sign_in(self) -> Any:
        if self._credential is not None:
            return _Awaited(self._credential)
        try:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - 0.4 s, if needed
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                "signing in to Azure needs azure-identity", hint='pip install "cci-plugins[azure]"'
            ) from missing
        credential = DefaultAzureCredential()
        self._closers.append(credential)
        return credential


class StagedBlob:
    """A blob for one transfer.

    Args:
        storage: Where it is.
        name: Its random name.
        lasts: How long its signatures are good.
    """

    def __init__(self, storage: BlobStorage, name: str, lasts: timedelta) -> None:
        self.name = name
        self._storage, self._lasts = storage, lasts
        self._links: list[SecretUrl] = []

    async def link(self, permission: Permission) -> SecretUrl:
        """Its address, signed for reading (`r`) or for being made (`cw`)."""
        link = await self._storage.link(self.name, permission, self._lasts)
        self._links.append(link)
        return link

    def forget(self) -> None:
        """Let redaction forget its signatures: they open nothing any more."""
        for link in self._links:
            link.forget()


class _Awaited:
    """Any credential as an asynchronous one."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **_: Any) -> Any:
        given = self._credential.get_token
        if inspect.iscoroutinefunction(given):
            return await given(*scopes)
        answer = await anyio.to_thread.run_sync(partial(given, *scopes))
        return await answer if inspect.isawaitable(answer) else answer

    async def close(self) -> None:
        """The application owns it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The application owns it."""


class _plainly:  # noqa: N801 - reads as an adverb in a with statement
    """Turns the SDK's exceptions into ours; none of their words, which may have a signature."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AzureError):
            raise _told(error, self._doing) from None


def _told(error: AzureError, doing: str) -> Exception:
    if isinstance(error, ClientAuthenticationError) or getattr(error, "status_code", 0) in {
        401,
        403,
    }:
        code = getattr(error, "error_code", None) or "no sign-in"
        return AuthenticationError(f"the storage account refused to {doing}: {code}", hint=ROLES)
    if isinstance(error, HttpResponseError):
        code = getattr(error, "error_code", None) or error.reason
        if str(getattr(code, "value", code)) == "BlobNotFound":
            return FileNotFoundError(doing)
        return FileTransferError(
            f"the storage account could not {doing}: {error.status_code} "
            f"{getattr(code, 'value', code)}"
        )
    return FileTransferError(
        f"the storage account cannot be reached to {doing} ({type(error).__name__})",
        hint="check AZURE_STORAGE_ACCOUNT and the network",
        retryable=True,
    )


def _check_key(key: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ConfigurationError("the storage account's key is no key") from None


def lifetime(size: int) -> timedelta:
    """How long a signature is good for a transfer of so many bytes."""
    return min(SHORTEST + timedelta(seconds=min(max(size, 0), 1 << 40) / SLOWEST), LONGEST)
