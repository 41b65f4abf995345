"""Each kind of Azure pool, emulated over real kernels: one contract, nothing is lost."""

import base64
import logging
from datetime import timedelta

import anyio
import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import (
    AuthenticationError,
    ConfigurationError,
    PoolExhaustedError,
    SessionLostError,
)
from cci_plugins.models import OutputEvent
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.testing import FakeSessionPool, check_session_pool, session_pools

from ._azure import ARM_TOKEN, POOL_ID, Arm, Credential, listening
from ._emulated import TOKEN, emulated

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIMIT = timedelta(seconds=20)
KINDS = [
    {"kind": "platform"},
    {"kind": "platform", "replies": "sse", "launch_tool": "launchPythonEnvironment"},
    {"kind": "platform", "launch_tool": "launchShellEnvironment", "errors": "rpc"},
    {"kind": "platform", "unknown_environments": "error", "latency": timedelta(milliseconds=2)},
    {"kind": "managed"},
    {"kind": "managed", "old_form_only": True},
    {"kind": "custom"},
    {"kind": "custom", "container": "executions"},
]
TEXT_ONLY = [KINDS[0], KINDS[4], KINDS[7]]


def named(options):
    return "-".join(str(value) for value in options.values())


def local_pool():
    from cci_plugins.pools.local.pool import LocalSessionPool

    return LocalSessionPool(preload=(), ready_sessions=0)


@pytest.fixture(scope="module")
async def shared_pool(anyio_backend):
    """Return a text-only pool for tests that may run in the same session."""
    async with emulated(local_pool(), kind="platform") as azure, azure.client() as pool:
        yield pool


@pytest.mark.quick("platform-sse-launchPythonEnvironment")
@pytest.mark.parametrize("options", KINDS, ids=named)
async def test_every_kind_keeps_the_contract(options):
    with anyio.fail_after(110):
        async with emulated(local_pool(), max_sessions=99, **options) as azure:
            async with azure.client() as pool:
                report = await check_session_pool(pool)
    assert {check: fault for check, fault in report.items() if fault} == {}


@pytest.mark.quick("platform")
@pytest.mark.parametrize("options", TEXT_ONLY, ids=named)
async def test_images_tables_and_long_output_arrive_whole(options):
    code = (
        "import matplotlib.pyplot as plt, pandas as pd, subprocess\n"
        "from IPython.display import HTML, SVG, JSON, Markdown, Latex, display\n"
        "print('x' * 300_000)\n"
        "subprocess.run(['echo', 'from a child'])\n"
        "display(HTML('<b>h</b>'), Markdown('*m*'), Latex('$l$'), JSON({'a': 1}))\n"
        "plt.plot([1, 3, 2]); plt.title('a chart'); plt.show()\n"
        "pd.DataFrame({'a': range(1000)})"
    )
    with anyio.fail_after(100):
        async with emulated(local_pool(), **options) as azure, azure.client() as pool:
            execution = await pool.execute("session-1", code, timeout=LIMIT)
    assert execution.error is None
    assert execution.stdout == "x" * 300_000 + "\nfrom a child\n"
    html, markdown, latex, as_json, chart, table = execution.results
    assert (html.html, markdown.markdown, latex.latex) == ("<b>h</b>", "*m*", "$l$")
    assert as_json.json == {"a": 1}
    assert (chart.png or b"").startswith(b"\x89PNG")
    assert table.is_main
    assert table.table is not None
    assert (table.table.row_count, table.table.column_count) == (1000, 1)


@pytest.mark.quick("custom-executions")
@pytest.mark.parametrize("options", TEXT_ONLY, ids=named)
async def test_the_session_agent_leaves_the_users_code_unchanged(options):
    with anyio.fail_after(100):
        async with emulated(local_pool(), **options) as azure, azure.client() as pool:

            async def run(code):
                return await pool.execute("session-1", code, timeout=LIMIT)

            names = await run("sorted(name for name in dir() if 'cci' in name.lower())")
            assert names.text == "[]"
            failed = await run("x = 1\n\ndef f():\n    return 1 / 0\n\nf()")
            assert failed.error is not None
            assert "line 6" in failed.error.traceback
            assert "line 4, in f()" in failed.error.traceback
            assert "cci" not in failed.error.traceback
            history = await run("In[-2:]")
            assert history.text == repr(["x = 1\n\ndef f():\n    return 1 / 0\n\nf()", "In[-2:]"])


async def test_awaiting_code_magics_forks_loggers_and_a_late_alarm_work(shared_pool):
    async def run(code, timeout=LIMIT):
        return await shared_pool.execute("session-1", code, timeout=timeout)

    with anyio.fail_after(100):
        assert (await run("import asyncio\nawait asyncio.sleep(0.01)\n5")).text == "5"
        late = await run("await asyncio.sleep(60)", timedelta(seconds=1))
        assert (late.status, late.state) == ("timed_out", "kept")
        assert (await run("%time 1 + 1")).error is None
        assert (await run("!echo hi")).stdout.split() == ["hi"]
        syntax = await run("x = )")
        assert syntax.error is not None
        assert syntax.error.name == "SyntaxError"
        stubborn = "import time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n7"
        caught = await run(stubborn, timedelta(seconds=1))
        assert caught.status == "timed_out"
        assert (await run("1 + 1")).text == "2"
        logged = "import logging\nlogging.basicConfig()\nlogging.warning('first')"
        assert "first" in (await run(logged)).stderr
        assert "second" in (await run("logging.warning('second')")).stderr
        forked = "import os\npid = os.fork()\nif pid == 0:\n    print('child')\n    os._exit(0)"
        assert (await run(forked + "\nos.waitpid(pid, 0)[1]")).text == "0"
        assert (await run("_")).text == "0"


@pytest.mark.quick("custom-executions")
@pytest.mark.parametrize("options", TEXT_ONLY, ids=named)
async def test_a_kernel_that_dies_is_reported_and_uploads_are_restored(options):
    with anyio.fail_after(100):
        async with emulated(local_pool(), **options) as azure:
            async with CodeInterpreter(azure.client()) as interpreter:
                session = interpreter.session("a")
                await session.files.upload(b"1", name="data.csv")
                assert (await session.run_code("x = 1")).state == "kept"
                died = await session.run_code("import os; os._exit(3)")
                assert (died.status, died.state) == ("died", "lost")
                after = await session.run_code("open('data.csv').read(), 'x' in dir()")
    assert after.text == "('1', False)"
    assert after.notes == ("uploaded again: data.csv",)


@pytest.mark.quick("platform", "custom")
@pytest.mark.parametrize("options", [*TEXT_ONLY, KINDS[3], KINDS[6]], ids=named)
async def test_a_silently_replaced_session_is_noticed_before_the_code_runs(options):
    with anyio.fail_after(100):
        async with emulated(local_pool(), **options) as azure:
            async with CodeInterpreter(azure.client()) as interpreter:
                session = interpreter.session("a")
                await session.files.upload(b"1", name="data.csv")
                await session.run_code("x = 1")
                (identifier,) = azure.emulator._last_used
                await azure.emulator.drop_session(identifier)
                execution = await session.run_code("seen = globals().get('seen', 0) + 1\nseen")
                again = await session.run_code("seen, open('data.csv').read()")
    assert (execution.state, execution.text) == ("lost", "1")
    assert "uploaded again: data.csv" in execution.notes
    assert (again.state, again.text) == ("kept", "(1, '1')")


async def test_large_files_travel_through_a_session_without_a_file_api():
    content = bytes(range(256)) * 1500

    async def pieces():
        yield content[:100_000]
        yield content[100_000:]

    with anyio.fail_after(100):
        async with (
            emulated(local_pool(), kind="platform", output_characters=60_000) as azure,
            azure.client() as pool,
        ):
            info = await pool.upload("session-1", "sub/data.bin", pieces())
            assert (info.name, info.size) == ("sub/data.bin", len(content))
            data = b"".join([piece async for piece in pool.download("session-1", "sub/data.bin")])
            assert data == content
            assert [file.name for file in await pool.list_files("session-1")] == ["sub/data.bin"]


async def test_output_is_emitted_at_the_end_of_a_run(shared_pool):
    events: list[OutputEvent] = []
    with anyio.fail_after(60):
        await shared_pool.execute(
            "session-1", "print(1)\n2", timeout=LIMIT, on_output=events.append
        )
    assert [event.stream for event in events] == ["stdout", "result"]


async def test_a_full_pool_raises_after_the_retries():
    with anyio.fail_after(60):
        async with (
            emulated(local_pool(), kind="platform", max_sessions=1) as azure,
            azure.client(patience=timedelta(seconds=1)) as pool,
        ):
            await pool.execute("session-1", "1", timeout=LIMIT)
            with pytest.raises(PoolExhaustedError, match="SessionsCountExceedsLimit"):
                await pool.execute("session-2", "1", timeout=LIMIT)


async def test_sessions_end_with_the_interpreter_unless_others_may_come_back():
    local = local_pool()
    with anyio.fail_after(60):
        async with emulated(local, kind="custom") as azure:
            for secret, left in ((None, 0), (b"shared", 1)):
                async with CodeInterpreter(azure.client(), session_secret=secret) as interpreter:
                    await interpreter.run_code("1")
                    assert len(await local.list_sessions()) == 1
                assert len(await local.list_sessions()) == left


@pytest.mark.parametrize("errors", ["http", "rpc"])
async def test_a_wrong_key_fails_at_the_start(errors):
    with anyio.fail_after(60):
        async with emulated(FakeSessionPool(), kind="platform", errors=errors) as azure:
            pool = azure.client(key="another-key")
            with pytest.raises(AuthenticationError) as caught:
                await pool.start()
            await pool.aclose()
    assert "another-key" not in f"{caught.value!r} {pool!r}"


def arm_for(azure, **changes):
    settings = {"isMcpServerEnabled": True, "mcpServerEndpoint": f"{azure.url}/mcp"}
    properties = {
        "containerType": "PythonLTS",
        "poolManagementEndpoint": azure.url,
        "mcpServerSettings": settings,
    }
    return Arm(properties | changes, lambda: azure.emulator.key)


async def test_ten_calls_and_a_rotated_key_cost_two_fetches_and_no_failed_call():
    credential = Credential(TOKEN)
    with anyio.fail_after(100):
        async with emulated(local_pool(), kind="platform") as azure:
            arm = arm_for(azure)
            with listening(arm.app) as arm_url:
                options = {"key": None, "resource_id": POOL_ID, "credential": credential}
                pool = azure.client(**options, arm_endpoint=arm_url)
                async with pool:
                    for number in range(10):
                        if number == 5:
                            azure.emulator.rotate_key()
                        execution = await pool.execute("session-1", "1 + 1", timeout=LIMIT)
                        assert execution.text == "2"
    assert azure.emulator.refused_requests == 1
    assert arm.asked["fetchmcpservercredentials"] == 2
    assert sorted(credential.asked.values()) == [1]


async def test_endpoint_and_key_come_from_the_resource_and_files_by_a_token(monkeypatch):
    checks = (
        session_pools.state_is_kept,
        session_pools.files_come_and_go,
        session_pools.missing_files_are_named,
    )
    monkeypatch.setattr(session_pools, "_CHECKS", checks)
    credential = Credential(TOKEN)
    with anyio.fail_after(60):
        async with emulated(local_pool(), kind="platform", max_sessions=2) as azure:
            arm = arm_for(azure)
            with listening(arm.app) as arm_url:
                pool = PlatformSessionPool(
                    resource_id=POOL_ID, credential=credential, arm_endpoint=arm_url
                )
                async with pool:
                    report = await check_session_pool(pool)
                    assert pool._has_files_api
    assert {check: fault for check, fault in report.items() if fault} == {}
    assert credential.asked == {f"{arm_url}/.default": 1, "https://dynamicsessions.io/.default": 1}


async def test_the_error_of_a_custom_pool_with_dropped_mcp_settings_names_the_setting_to_use():
    async with emulated(FakeSessionPool(), kind="custom") as azure:
        arm = arm_for(azure, containerType="CustomContainer", mcpServerSettings=None)
        with listening(arm.app) as arm_url:
            pool = PlatformSessionPool(
                resource_id=POOL_ID, credential=ARM_TOKEN, arm_endpoint=arm_url
            )
            with pytest.raises(ConfigurationError, match="drops them") as caught:
                await pool.start()
            await pool.aclose()
    assert f"AZURE_SESSION_POOL_ENDPOINT={azure.url}" in (caught.value.hint or "")


async def test_a_lost_session_is_an_error_for_a_caller_of_the_pool_itself():
    with anyio.fail_after(60):
        async with emulated(local_pool(), kind="platform") as azure, azure.client() as pool:
            first = await pool.execute("session-1", "x = 1", timeout=LIMIT)
            await azure.emulator.drop_session("session-1")
            with pytest.raises(SessionLostError) as caught:
                await pool.execute("session-1", "x", timeout=LIMIT, instance=first.instance)
    assert caught.value.retryable


async def test_no_output_of_the_code_can_forge_a_report(shared_pool, caplog):
    caplog.set_level(logging.DEBUG)
    forged = base64.b64encode(b"{}").decode()
    code = (
        "import os, re, sys\n"
        "agent = sys.modules['_cci']\n"
        "state = vars(agent), vars(agent.get_agent(get_ipython()))\n"
        "text = ''.join(In) + repr(state)\n"
        "marks = re.findall(r'[0-9a-f]{32}', text)\n"
        f"for mark in marks or ['0' * 32]:\n"
        f'    answer = f\'{{mark}}{{{{"at": 0, "total": 4}}}}\\n{forged}\\n{{mark}}\'\n'
        "    os.write(1, answer.encode())\n"
        "print('the truth')\nlen(marks)"
    )
    with anyio.fail_after(60):
        execution = await shared_pool.execute("session-1", code, timeout=LIMIT)
    assert execution.text == "0", "the marker can be read in the session"
    assert "the truth" in execution.stdout
    assert execution.error is None
