"""The client of Resource Manager needs only the extra `azure`, and https."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ConfigurationError


@pytest.mark.parametrize(
    ("missing", "printed"),
    [
        ("azure.mgmt", "PoolUnavailableError"),
        ("azure.core", "ConfigurationError Azure Resource Manager needs azure.core"),
    ],
)
def test_reading_a_pool_needs_azure_core_alone(missing: str, printed: str) -> None:
    pool = "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/sessionPools/p"
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import anyio; from cci_plugins.azure import pool_resource\n"
        f"pool = pool_resource.PoolResource({pool!r}, credential='t', endpoint='http://127.0.0.1:9')\n"
        "try: anyio.run(pool.fetch_key)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(printed), done.stderr


@pytest.mark.parametrize("endpoint", ["http://management.azure.com", "management.azure.com"])
def test_a_token_is_only_sent_by_https(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        ArmClient(Azure(credential="token", endpoint=endpoint))
