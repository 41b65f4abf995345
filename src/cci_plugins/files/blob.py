"""Azure Blob Storage for files on their way: one random blob for each transfer, reached by SAS.

A signature opens one blob, for reading or for writing, for 10 minutes to an hour by the size of
the file. It is signed with a user delegation key, which one sign-in gets for two hours and all
signatures share, or with the account's key where one is given. Every call runs on the loop of
`common.event_loop`, because the SDK's client belongs to one loop. The SDK's exceptions are
translated without their texts, which may contain a signature.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

import anyio

from cci_plugins.azure.credentials import CachedCredential, TokenCredential
from cci_plugins.azure.scoped_credential import STORAGE_SCOPE, ScopedCredential
from cci_plugins.common import event_loop
from cci_plugins.common.azure_hosts import check_sign_in_host
from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.log import logger
from cci_plugins.common.renewal import Renewable
from cci_plugins.common.urls import SecretUrl, is_loopback_host
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FileTransferError,
    ProtocolError,
)
from cci_plugins.redaction import know

if TYPE_CHECKING:
    from azure.core.exceptions import AzureError
    from azure.storage.blob import UserDelegationKey
    from azure.storage.blob.aio import BlobServiceClient, ContainerClient

Permission = Literal["r", "cw"]

CLOCK_SKEW = timedelta(minutes=5)  # a SAS is valid from so long ago, for clocks that are behind
MIN_LIFETIME, MAX_LIFETIME = timedelta(minutes=10), timedelta(hours=1)
MIN_BYTES_PER_SECOND = 1 << 20  # the slowest transfer that a lifetime allows for
DELEGATION_KEY_LIFETIME = timedelta(hours=2)
MAX_DELEGATION_KEY_LIFETIME = timedelta(days=7)  # of a user delegation key (learn.microsoft.com)
_CREATE_SECONDS = 5
_CONNECT_SECONDS, _READ_SECONDS = 20, 60  # the defaults of the SDK's own transport
ACCOUNT_HINT = "set AZURE_STORAGE_ACCOUNT to its name, or to the URL of its blob service"
ROLES_HINT = (
    "give the identity the roles Storage Blob Data Contributor on the container and Storage Blob "
    "Delegator on the account"
)


@dataclass(frozen=True, slots=True)
class AccountAddress:
    """The address of an account's blob service.

    Attributes:
        url: URL of the blob service, without a slash at the end.
        account: Name of the account.
    """

    url: str
    account: str

    @classmethod
    def parse(cls, account: str) -> AccountAddress:
        """Parse an account's name, or the URL of its blob service.

        Args:
            account: The name or URL. No error shows it, because a connection string has a key.

        Raises:
            ConfigurationError: It is neither, or would send signatures unencrypted.
        """
        if "://" not in account:
            if not (account.isascii() and account.isalnum()):
                raise ConfigurationError("the storage account's name is invalid", hint=ACCOUNT_HINT)
            return cls(f"https://{account}.blob.core.windows.net", account)
        try:
            parts = urlsplit(account.rstrip("/"))
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ConfigurationError(
                "the storage account's URL is invalid", hint=ACCOUNT_HINT
            ) from None
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_host(host)):
            raise ConfigurationError(
                "the storage account's URL does not begin with https://", hint=ACCOUNT_HINT
            )
        if parts.query or parts.fragment or parts.username is not None or not host:
            raise ConfigurationError(
                "the storage account's URL has a query, a password or no host", hint=ACCOUNT_HINT
            )
        path = parts.path.strip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path}", path or host.partition(".")[0])


class BlobStorage(Renewable):
    """A container of a storage account, for files on their way.

    A blob is created for each transfer and deleted after it. Only a SAS for that blob opens it,
    signed with a user delegation key, or with the account's key where one is given.

    Args:
        account: Name of the account, or the URL of its blob service.
        container: Name of the container, which must exist.
        credential: A credential of azure-identity, or None for `DefaultAzureCredential`.
        key: The account's key, instead of a credential.
        ip: Address or range that may use the signatures, such as `20.1.2.3-20.1.2.9`.
        ca_file: Certificates in PEM to trust in addition to the system's, here and in sessions.

    Raises:
        ConfigurationError: The account or key is invalid.

    Example:
        ```python
        from cci_plugins import BlobStorage, CodeInterpreter, FileOptions

        storage = BlobStorage("mystorage", "cci-files")
        hosts = ["mystorage.blob.core.windows.net"]
        interpreter = CodeInterpreter.local(files=FileOptions(storage), egress=hosts)
        ```
    """

    def __init__(
        self,
        account: str,
        container: str,
        *,
        credential: TokenCredential | None = None,
        key: str | None = None,
        ip: str | None = None,
        ca_file: str | Path | None = None,
    ) -> None:
        self._address = AccountAddress.parse(account)
        self._container = container
        self._credential = CachedCredential.wrap(credential)
        self._key = key
        if key is not None:
            know(key)
            _check_key(key)
        self._ip = ip
        self._ca_file = ca_file
        self.ca = None if ca_file is None else Path(ca_file).read_text(encoding="ascii")
        self._client: BlobServiceClient | None = None
        self._delegation: tuple[UserDelegationKey, datetime] | None = None
        self._delegation_lock = anyio.Lock()

    @property
    def url(self) -> str:
        """URL of the account's blob service."""
        return self._address.url

    @property
    def container(self) -> str:
        """Name of the container."""
        return self._container

    def __repr__(self) -> str:
        return f"BlobStorage({self._address.url!r}, {self._container!r})"

    @asynccontextmanager
    async def staged(self, size: int, *, creates: bool = False) -> AsyncGenerator[StagedBlob]:
        """Provide a blob for one transfer, and delete it at the end.

        Args:
            size: Bytes to move. More bytes get a longer lifetime.
            creates: Create it empty if possible, so that its writer can insist that it is there.
        """
        _require_sdk()
        blob = StagedBlob(self, token_hex(16), compute_lifetime(size))
        try:
            if creates:  # to the end, so that it is deleted after that
                create = event_loop.dispatch(self._create, blob.name)
                blob.is_created = await run_to_end(create)
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
            permission: `r` to read it, or `cw` to create and write it.
            lasts: How long the signature is valid.
            download_as: The file name under which a browser saves it.

        Raises:
            AuthenticationError: The sign-in failed, or a role is missing.
            ConfigurationError: The extra `azure` is not installed.
        """
        _require_sdk()
        return await event_loop.dispatch(self._create_link, name, permission, lasts, download_as)

    async def delete(self, name: str) -> None:
        """Delete a blob. A missing blob is ignored, and a failure is only logged."""
        await event_loop.dispatch(self._delete, name)

    async def is_empty(self) -> bool:
        """Return whether the container has no blob.

        Raises:
            FileTransferError: It cannot be read.
            AuthenticationError: The sign-in failed, or a role is missing.
        """
        _require_sdk()
        return await event_loop.dispatch(self._is_empty)

    async def aclose(self) -> None:
        """Close the connections."""
        await event_loop.dispatch(self._close)

    async def _create_link(
        self, name: str, permission: Permission, lasts: timedelta, download_as: str | None
    ) -> SecretUrl:
        from azure.storage.blob import generate_blob_sas  # noqa: PLC0415 - heavy, and an extra

        now = datetime.now(UTC)
        secret: dict[str, Any] = (
            {"account_key": self._key}
            if self._key is not None
            else {"user_delegation_key": await self._get_delegation_key(now + lasts)}
        )
        content_disposition = (
            f"attachment; filename*=UTF-8''{quote(download_as)}" if download_as else None
        )
        signature = generate_blob_sas(
            self._address.account,
            self._container,
            name,
            permission=permission,
            start=now - CLOCK_SKEW,
            expiry=now + lasts,
            ip=self._ip,
            protocol="https" if self._address.url.startswith("https:") else None,
            content_disposition=content_disposition,
            **secret,
        )
        return SecretUrl(f"{self._address.url}/{self._container}/{quote(name)}?{signature}")

    async def _is_empty(self) -> bool:
        with _SdkErrorTranslator("list"):
            from cci_plugins.azure.transport import iterate_items  # noqa: PLC0415 - as above

            names = self._get_container().list_blob_names(results_per_page=1)
            async with aclosing(iterate_items(names)) as found:
                async for _ in found:
                    return False
        return True

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._credential.close()

    async def _get_delegation_key(self, until: datetime) -> UserDelegationKey:
        """Return the key that all signatures share, and renew it before it expires."""
        async with self._delegation_lock:
            if self._delegation is None or self._delegation[1] < until:
                now = datetime.now(UTC)
                expiry = max(now + DELEGATION_KEY_LIFETIME, until)
                with _SdkErrorTranslator("sign"):
                    key = await self._get_service().get_user_delegation_key(
                        now - CLOCK_SKEW, expiry
                    )
                know(key.value or "")
                self._delegation = (key, expiry)
            return self._delegation[0]

    async def _create(self, name: str) -> bool:
        """Create an empty blob. Return False if that fails, for which the transfer has a reason."""
        try:
            with anyio.move_on_after(_CREATE_SECONDS), _SdkErrorTranslator("write"):
                await self._get_container().upload_blob(name, b"")
                return True
        except (CodeInterpreterError, FileNotFoundError) as error:
            logger.info("a blob for a transfer could not be created: %s", error)
        return False

    async def _delete(self, name: str) -> None:
        try:
            with _SdkErrorTranslator("delete"):
                await self._get_container().delete_blob(name, delete_snapshots="include")
        except FileNotFoundError:
            return
        except CodeInterpreterError as error:
            logger.warning("a staged file could not be deleted: %s", error)

    def _get_container(self) -> ContainerClient:
        return self._get_service().get_container_client(self._container)

    def _get_service(self) -> BlobServiceClient:
        if self._client is None:
            if self._key is None and self._credential.is_default:
                check_sign_in_host(self._address.url, "storage")
            _require_sdk()
            from azure.storage.blob.aio import (  # noqa: PLC0415 - heavy, and an extra
                BlobServiceClient,
                ExponentialRetry,
            )

            from cci_plugins.azure.transport import (  # noqa: PLC0415 - it loads the SDK
                build_connection_options,
            )

            # the SDK's default starts at 15 s, but a caller waits for the deletion
            retry_policy = ExponentialRetry(
                initial_backoff=1, increment_base=2, retry_total=2, random_jitter_range=1
            )
            self._client = BlobServiceClient(
                self._address.url,
                credential=self._key or ScopedCredential(self._credential, STORAGE_SCOPE),
                retry_policy=retry_policy,
                **build_connection_options(
                    self._address.url,
                    self._ca_file,
                    connection_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                ),
            )
        return self._client


class StagedBlob:
    """A blob for one transfer.

    Args:
        storage: The storage that holds it.
        name: Its random name.
        lasts: How long its signatures are valid.

    Attributes:
        name: Its random name.
        is_created: Whether it is there, and empty.
    """

    def __init__(self, storage: BlobStorage, name: str, lasts: timedelta) -> None:
        self.name, self.is_created = name, False
        self._storage, self._lifetime = storage, lasts
        self._links: list[SecretUrl] = []

    async def link(self, permission: Permission) -> SecretUrl:
        """Return its URL, signed for reading (`r`) or for creating and writing (`cw`)."""
        link = await self._storage.link(self.name, permission, self._lifetime)
        self._links.append(link)
        return link

    def forget(self) -> None:
        """Unregister its signatures from redaction, after the blob was deleted."""
        for link in self._links:
            link.forget()


class _SdkErrorTranslator:
    """A context that translates the SDK's exceptions without their texts.

    Args:
        operation: The verb of the error message, such as `sign`.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - an extra

        if isinstance(error, ProtocolError):
            raise FileTransferError(
                f"the storage account failed to {self._operation}: {error}",
                hint="check AZURE_STORAGE_ACCOUNT and the proxy",
            ) from None
        if isinstance(error, AzureError | AuthenticationError):  # the latter from the sign-in
            raise _translate_error(error, self._operation) from None


def _translate_error(error: AzureError | AuthenticationError, operation: str) -> Exception:
    from azure.core.exceptions import (  # noqa: PLC0415 - an extra
        ClientAuthenticationError,
        HttpResponseError,
    )

    signs_in = isinstance(error, ClientAuthenticationError | AuthenticationError)
    if signs_in or getattr(error, "status_code", 0) in {401, 403}:
        code = getattr(error, "error_code", None) or "no sign-in"
        return AuthenticationError(
            f"the storage account refused to {operation}: {code}", hint=ROLES_HINT
        )
    if isinstance(error, HttpResponseError):
        code = getattr(error, "error_code", None) or error.reason
        if str(getattr(code, "value", code)) == "BlobNotFound":
            return FileNotFoundError(operation)
        return FileTransferError(
            f"the storage account failed to {operation}: {error.status_code} "
            f"{getattr(code, 'value', code)}"
        )
    return FileTransferError(
        f"the storage account cannot be reached to {operation} ({type(error).__name__})",
        hint="check AZURE_STORAGE_ACCOUNT and the network",
        retryable=True,
    )


def _require_sdk() -> None:
    """Check that the SDK is installed. It is loaded with the first file that is staged."""
    if not is_sdk_installed():
        raise ConfigurationError(
            "staging files in Blob Storage needs azure-storage-blob",
            hint='pip install "cci-plugins[azure]"',
        )


@cache
def is_sdk_installed() -> bool:
    """Return whether the SDK for Blob Storage is installed."""
    try:
        return find_spec("azure.storage.blob") is not None and find_spec("aiohttp") is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _check_key(key: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ConfigurationError(
            "the storage account's key is invalid: it is not base64",
            hint="copy AZURE_STORAGE_KEY again",
        ) from None


def compute_lifetime(size: int) -> timedelta:
    """Return how long a signature is valid for a transfer of `size` bytes."""
    return min(
        MIN_LIFETIME + timedelta(seconds=min(max(size, 0), 1 << 40) / MIN_BYTES_PER_SECOND),
        MAX_LIFETIME,
    )
