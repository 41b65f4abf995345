"""The fake cloud over HTTPS, with a certificate of its own authority."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from starlette.applications import Starlette
from starlette.routing import Route

from .._azure import listening  # noqa: TID252 - the tests are not a package
from . import values
from .cloud import Cloud
from .entra import Entra


@dataclass
class Running:
    """A cloud that is served.

    Attributes:
        cloud: Its state.
        entra: Its directory.
        url: Address of Resource Manager and Entra.
        ca: The authority's certificate, as a file.
    """

    cloud: Cloud
    entra: Entra
    url: str
    ca: Path

    def credential(self) -> Any:
        """Return a credential of the SDK that signs in here."""
        from azure.identity import ClientSecretCredential

        return ClientSecretCredential(
            values.TENANT,
            values.CLIENT,
            values.CLIENT_SECRET,
            authority=self.url,
            disable_instance_discovery=True,
            connection_verify=str(self.ca),
        )


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Serve a new cloud. Clients must trust `ca`, for example by SSL_CERT_FILE."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    ca, key, chain = folder / "ca.pem", folder / "key.pem", folder / "chain.pem"
    authority.cert_pem.write_to_path(ca)
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    cloud, entra = Cloud(), Entra()
    everything = ["GET", "PUT", "POST", "DELETE", "PATCH"]
    app = Starlette(
        routes=[
            Route("/{tenant}/v2.0/.well-known/openid-configuration", entra.configuration),
            Route("/{tenant}/oauth2/v2.0/token", entra.token, methods=["POST"]),
            Route("/upload/{name:path}", cloud.tasks.upload, methods=["PUT"]),
            Route("/log/{name:path}", cloud.tasks.log),
            Route("/api/projects/{project}/agents", cloud.foundry.list_agents),
            Route("/{path:path}", cloud.answer, methods=everything),
        ]
    )
    with listening(app, ssl_keyfile=str(key), ssl_certfile=str(chain)) as url:
        cloud.url = url.replace("http://", "https://")
        cloud.foundry.endpoint = cloud.url
        yield Running(cloud, entra, cloud.url, ca)
