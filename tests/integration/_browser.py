"""A real browser without a window, driven over a pipe by the Chrome DevTools protocol."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root, and the pages come from this machine
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)
SECONDS = 40


def find_chromium() -> str:
    """Return the path of a Chromium, or skip the test."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("a page in a real browser needs Chromium, which is not installed")


class Page:
    """One tab."""

    def __init__(self, sent: int, received: int) -> None:
        self._sent, self._received = sent, received
        self._rest = b""
        self._number = 0
        self._session = ""
        self.dialogs: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")
        self._call("Runtime.enable")

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a script is true, also while another page is loaded."""
        end = time.monotonic() + SECONDS
        while True:
            answer = self._call("Runtime.evaluate", expression=condition, returnByValue=True)
            if answer.get("result", {}).get("value") is True:
                return
            assert time.monotonic() < end, f"never true: {condition}: {self.text()}"
            time.sleep(0.05)

    def text(self) -> str:
        return self.evaluate("document.body.innerText")

    def click(self, selector: str) -> None:
        """Click an element, and wait until another page is there."""
        self.evaluate("window.isOld = true")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait("window.isOld !== true && document.readyState === 'complete'")

    def allow_scripts(self, *, allowed: bool) -> None:
        """Let pages run scripts of their own, or not."""
        self._call("Emulation.setScriptExecutionDisabled", value=not allowed)

    def set_size(self, width: int, height: int, *, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def save_picture(self, path: Path) -> None:
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(b64decode(answer["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Page.javascriptDialogOpening":
                self.dialogs.append(answer["params"]["message"])
            if answer.get("id") == self._number:
                return answer.get("result", answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._received], [], [], SECONDS)
            chunk = os.read(self._received, 1 << 16) if ready else b""
            assert chunk, "the browser does not answer"
            self._rest += chunk
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)


@contextmanager
def browser_page():
    """Start a browser with a profile of its own, and yield its tab."""
    command = [find_chromium(), *FLAGS]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        child_in, sent = os.pipe()
        received, child_out = os.pipe()
        # away from 3 and 4, which the browser expects them to be
        high_in, high_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 60) for fd in (child_in, child_out))

        def connect() -> None:
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,  # noqa: PLW1509 - it only copies descriptors
            pass_fds=(3, 4),
            start_new_session=True,
        )
        for fd in (child_in, child_out, high_in, high_out):
            os.close(fd)
        try:
            yield Page(sent, received)
        finally:
            os.close(sent)  # it ends with its pipe
            os.close(received)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
