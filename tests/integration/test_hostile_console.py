"""What hostile code must not be able to do to somebody who looks at it, in a real browser."""

import re
import sys
import threading

import httpx
import pytest

from cci_plugins.pools.local.pool import LocalSessionPool

from ._browser import browser_page
from ._server import KEY, running_server

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

if sys.platform != "linux":
    pytest.skip("only Linux has these sandboxes and pipes", allow_module_level=True)

# test_console_page.py checks the same pages without a browser
pytestmark = pytest.mark.full
RUN = "/executions?api-version=2025-10-02-preview&identifier="
HACKS = (
    "<script>document.title = 'hacked'</script>",
    "</pre><img src=x onerror=\"document.title='hacked'\">",
    "<svg onload=\"document.title='hacked'\"></svg>",
    "<style>body { display: none }</style><base href='//evil.example/'>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'>",
    "<form action=/sessions/end method=post><button name=id value=session-1>Continue</button>",
)
HOSTILE = f"""
from IPython.display import HTML, SVG, Javascript, display
hacks = {HACKS!r}
print(*hacks, sep="\\n")
print("\\x1b]0;hacked\\x07\\x1b[2J\\x1b[31mred\\x1b[0m \\u202etxt.exe")
for hack in hacks:
    display(HTML(hack), Javascript("document.title = 'hacked'"))
    display({{"image/png": "javascript:document.title", "image/gif": hack}}, raw=True)
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' onload='document.title=1'/>"))
open(hacks[1].replace("/", "_"), "w").close()
raise ValueError(hacks[0])
"""
CHART = """
import struct, zlib
from IPython.display import Image, display
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
head, rows = struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0), (b"\\0" + b"\\x10\\x80\\x40" * 40) * 30
png = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
display(Image(b"\\x89PNG\\r\\n\\x1a\\n" + png))
"""
ENDLESS = """
import itertools, time
for number in itertools.count():
    print("step", number, flush=True)
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def page():
    with browser_page() as page:
        yield page


@pytest.fixture(scope="module")
def base():
    options = {"console": True, "execute_code": True}
    with running_server(lambda: LocalSessionPool(ready_sessions=0, preload=()), **options) as url:
        yield url.removesuffix("/mcp")


def run(base: str, identifier: str, code: str) -> None:
    with httpx.Client(base_url=base, headers={"x-ms-apikey": KEY}, timeout=90) as client:
        client.post(RUN + identifier, json={"code": code, "timeoutInSeconds": 60})


def sign_in(page, base: str) -> None:
    page.open(f"{base}/sessions")
    if page.evaluate("location.pathname") == "/sessions/sign-in":
        page.evaluate(f"document.querySelector('#key').value = {KEY!r}")
        page.click("main button")
    assert page.evaluate("location.pathname") == "/sessions"


def test_output_of_hostile_code_is_shown_and_does_nothing(page, base):
    run(base, "session-1", HOSTILE)
    run(base, "session-1", CHART)
    sign_in(page, base)
    assert page.evaluate("document.cookie") == ""
    page.click("main a")
    assert page.evaluate("location.pathname") == "/sessions/session-1"
    text = page.text()
    for hack in HACKS:
        assert hack in text
    assert "ValueError" in text
    assert "red" in text
    assert page.evaluate("document.title").startswith("session-1")
    assert page.dialogs == []
    assert page.evaluate("document.forms.length") == 2  # to end the session, and to sign out
    elements = "script, svg, iframe, object, embed, base, main style, main meta"
    assert page.evaluate(f"document.querySelectorAll({elements!r}).length") == 0
    pictures = "[...document.images].map(one => `${one.naturalWidth}x${one.naturalHeight}`)"
    assert page.evaluate(f"{pictures}.join()") == "40x30"
    # if a script came through all the same, the policy would stop it
    page.evaluate(
        "const one = document.createElement('script'); one.textContent = 'document.title = 1';"
        "document.body.append(one); const two = document.createElement('div');"
        "two.innerHTML = '<img src=x onerror=\"document.title = 2\">'; document.body.append(two);"
        "two.firstChild.addEventListener('error', () => { window.hasFailed = true })"
    )
    page.wait("window.hasFailed === true")
    assert page.evaluate("document.title").startswith("session-1")
    page.open(f"{base}/sessions/session-1")
    assert page.evaluate("scrollX === 0 && document.body.scrollWidth <= innerWidth")


def test_a_run_is_followed_and_ended_without_scripts(page, base):
    runner = threading.Thread(target=run, args=(base, "session-2", ENDLESS))
    runner.start()
    try:
        sign_in(page, base)
        page.allow_scripts(allowed=False)
        while "running code" not in page.text():
            assert runner.is_alive()
            page.open(f"{base}/sessions")
        assert "session-2" in page.text()
        page.open(f"{base}/sessions/session-2")
        page.wait("document.body.innerText.includes('step 1')")
        seen = len(re.findall("step", page.text()))
        page.wait(f"document.body.innerText.split('step').length > {seen + 8}")
        page.click("main form button")
        assert page.evaluate("location.pathname") == "/sessions"
        page.wait("!document.body.innerText.includes('running code')")
        page.open(f"{base}/sessions/session-2")
        assert "ended" in page.text()
        assert page.evaluate("document.querySelector('meta[http-equiv=refresh]') === null")
    finally:
        page.allow_scripts(allowed=True)
        runner.join(90)
    assert not runner.is_alive()
    page.click("header button")
    assert page.evaluate("location.pathname") == "/sessions/sign-in"
    page.open(f"{base}/sessions/session-2")
    assert "step" not in page.text()


def test_a_narrow_screen_shows_the_whole_page(page, base):
    sign_in(page, base)
    page.set_size(360, 700)
    for path in ("/sessions", "/sessions/session-1"):
        page.open(base + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
