"""Details of Azure's pools that clients met: lost tails, cuts by bytes, and old empty values."""

import httpx
import pytest

from cci_plugins.server import Faults
from cci_plugins.server.emulation.faults import cut_bytes, drop_tail

from ._emulated import KEY, TOKEN, emulated

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def local_pool():
    from cci_plugins.pools.local.pool import LocalSessionPool

    return LocalSessionPool(preload=(), ready_sessions=0)


async def post(http, url, path, version, body):
    answer = await http.post(
        f"{url}{path}",
        params={"api-version": version, "identifier": "session-1"},
        headers={"authorization": f"Bearer {TOKEN}"},
        json=body,
    )
    assert answer.is_success, answer.text
    return answer.json()


async def test_old_clients_get_text_for_lists_and_nothing():
    """AutoGen 0.7 joins `result` to text, and reads a printed list of packages from it."""
    async with emulated(local_pool(), kind="managed") as azure, httpx.AsyncClient() as http:

        async def run(code):
            body = {"properties": {"codeInputType": "inline", "executionType": "synchronous"}}
            body["properties"]["code"] = code
            answer = await post(http, azure.url, "/code/execute", "2024-02-02-preview", body)
            return answer["properties"]

        packages = await run(
            "\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n"
        )
        assert packages["status"] == "Success", packages
        names = {name.strip(" '") for name in packages["result"].strip("[]").split(",\n")}
        assert "ipykernel" in names
        for code, result in (
            ("x = 5", ""),
            ("None", ""),
            ("[1, 2]", "[1, 2]"),
            ("{}", "{}"),
            ("x", 5),
        ):
            fields = await run(code)
            assert (fields["result"], fields["stdout"], fields["stderr"]) == (result, "", ""), code
        assert (await run("1/0"))["result"] == ""


async def test_output_of_shell_commands_is_cut_by_bytes_and_may_lose_its_tail():
    command = "printf '%04096d' 0; printf '\\u00e9\\nlast'".replace("%04096d", "%04095d")
    async with emulated(local_pool(), kind="managed") as azure, httpx.AsyncClient() as http:
        body = {"shellCommand": command}
        answer = await post(http, azure.url, "/executions", "2025-02-02-preview", body)
        assert (answer["status"], answer["result"]["stdout"]) == ("0", "0" * 4095)
    faults = Faults(rate=1, kinds=("tail-lost",))
    async with (
        emulated(local_pool(), kind="platform", faults=faults) as azure,
        httpx.AsyncClient(timeout=60) as http,
    ):
        arguments = {"environmentId": "session-1", "shellCommand": "echo a; echo b"}
        name = "runShellCommandInRemoteEnvironment"
        params = {"name": name, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {"x-ms-apikey": KEY}
        answer = await http.post(f"{azure.url}/mcp", json=message, headers=headers)
        assert answer.json()["result"]["structuredContent"]["stdout"] == "a\n"


def test_tails_and_cuts():
    assert [drop_tail(text) for text in ("", "a", "a\n", "a\nb", "a\nb\n")] == [
        "",
        "",
        "",
        "a\n",
        "a\n",
    ]
    assert cut_bytes("\u00e9\u00e9", 3) == "\u00e9"
