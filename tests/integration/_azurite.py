"""A real Azurite over HTTPS, with accounts' keys and user delegation, and a look into it."""

import base64
import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from azure.core.credentials import AccessToken
from azure.storage.blob import ContainerClient
from tests.node import installed

from cci_plugins.files.blob import BlobStorage

HERE = Path(__file__).parents[1] / "azurite"
MAIN = HERE / "node_modules/azurite/dist/src/blob/main.js"
ACCOUNT, CONTAINER = "devstoreaccount1", "cci-files"
# the well-known key of the emulator (learn.microsoft.com, Azurite), good for nothing else
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
TENANT = "11111111-1111-1111-1111-111111111111"


def _part(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class SignedIn:
    """Stands for azure-identity: Azurite believes any token of the right form."""

    def __init__(self):
        self.asked = 0

    def get_token(self, *scopes: str):
        self.asked += 1
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
            "oid": "22222222-2222-2222-2222-222222222222",
            "tid": TENANT,
        }
        token = f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}.c2lnbmF0dXJl"
        return AccessToken(token, now + 3600)


@dataclass
class Azurite:
    """A running one."""

    url: str
    port: int
    ca: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def storage(self, *, key: str | None = None, url: str | None = None, **options) -> BlobStorage:
        """Storage there: by user delegation, or by the account's key."""
        credential = None if key else SignedIn()
        return BlobStorage(
            url or self.url, CONTAINER, credential=credential, key=key, ca_file=self.ca, **options
        )

    @contextmanager
    def container(self):
        """The container, as its owner sees it."""
        client = ContainerClient(
            self.url, CONTAINER, credential=KEY, connection_verify=str(self.ca)
        )
        with client:
            yield client

    def blobs(self) -> list[str]:
        with self.container() as container:
            return list(container.list_blob_names())


@contextmanager
def running_azurite(folder: Path):
    """Start one on a free port, with its data in a folder."""
    node = installed(HERE, MAIN)
    authority = trustme.CA()
    ca, chain, secret = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(ca))
    issued.private_key_pem.write_to_path(str(secret))
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(chain), append=number > 0)
    command = [node, str(MAIN), "--location", str(folder / "data"), "--blobHost", "127.0.0.1"]
    command += ["--blobPort", "0", "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    command += ["--oauth", "basic", "--cert", str(chain), "--key", str(secret)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        port = _read_port(process)
        azurite = Azurite(f"https://127.0.0.1:{port}/{ACCOUNT}", port, ca)
        with azurite.container() as container:
            container.create_container()
        yield azurite
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _read_port(process: subprocess.Popen) -> int:
    """Return the port that it chose, as soon as it listens."""
    for line in process.stdout:
        if b"listens on" in line:
            return int(line.rsplit(b":", 1)[1])
    raise AssertionError(process.communicate(timeout=20)[1])
