"""Tests of the egress proxy: it allows named hosts only, and never metadata services."""

import os
import socket
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

pytest.importorskip("jupyter_client")

from tests.integration._egress import run
from tests.integration.conftest import spec_of

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError, IsolationError
from cci_plugins.pools.local import egress_proxy as proxies
from cci_plugins.pools.local.egress import EgressRule, is_address_allowed, parse_egress_rules
from cci_plugins.pools.local.isolation import choose
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Site(BaseHTTPRequestHandler):
    """A site that answers with the request it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{self.path} {self.headers['Host']} {self.headers['X-Asked']}".encode()
        self.server.headers_seen.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.headers_seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def listening(serve):
    """Listen on loopback and call a function with every connection."""

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
            threads[-1].start()

    threads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)
    for thread in threads:
        thread.join(10)


def echo(sock):
    """Send everything back until the client has finished."""
    with sock:
        try:
            while chunk := sock.recv(1 << 16):
                sock.sendall(chunk)
        except OSError:
            pass


class Client:
    """A client of an egress proxy."""

    def __init__(self, path: str) -> None:
        self._path = path

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(self._path)
        return sock

    def ask(self, head: str | bytes) -> str:
        """Send a request and return the whole answer."""
        with closing(self.connect()) as sock:
            try:
                sock.sendall(head.encode("latin-1") if isinstance(head, str) else head)
                sock.shutdown(socket.SHUT_WR)
            except OSError:  # it answered before it had read the whole request
                pass
            answer = bytearray()
            try:
                while chunk := sock.recv(1 << 16):
                    answer += chunk
            except ConnectionError:
                pass
            return answer.decode("latin-1")

    def tunnel(self, target: str) -> socket.socket:
        sock = self.connect()
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            assert byte, head
            head += byte
        assert head.startswith(b"HTTP/1.1 200"), head
        return sock


@pytest.fixture
def serve(tmp_path):
    """Serve rules: `serve("127.0.0.1:80").ask(...)`."""
    served = []

    def start(*hosts, rules=None):
        path = str(tmp_path / f"out-{len(served)}.sock")
        served.append(proxies.EgressProxy(path, rules or parse_egress_rules(hosts)))
        return Client(path)

    yield start
    for proxy in served:
        proxy.close()


def status(answer: str) -> str:
    return answer.partition("\r\n")[0].removeprefix("HTTP/1.1 ")[:3]


# rules


@pytest.mark.parametrize(
    ("rule", "host", "port", "matches"),
    [
        ("pypi.org", "pypi.org", 443, True),
        ("pypi.org", "pypi.org", 80, True),
        ("pypi.org", "pypi.org", 22, False),
        ("pypi.org:8443", "pypi.org", 8443, True),
        ("pypi.org:8443", "pypi.org", 443, False),
        ("pypi.org", "evilpypi.org", 443, False),
        ("pypi.org", "a.pypi.org", 443, False),
        ("pypi.org", "pypi.org.evil.com", 443, False),
        ("*.pypi.org", "a.pypi.org", 443, True),
        ("*.pypi.org", "a.b.pypi.org", 443, True),
        ("*.pypi.org", "pypi.org", 443, False),
        ("*.pypi.org", "evilpypi.org", 443, False),
        ("PyPI.org.", "pypi.org", 443, True),
        ("b\u00fccher.example", "xn--bcher-kva.example", 443, True),
        ("[::1]:80", "::1", 80, True),
    ],
)
def test_a_rule_matches_its_host_and_ports(rule, host, port, matches):
    (parsed,) = parse_egress_rules((rule,))
    assert parsed.matches(host, port) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://pypi.org",
        "pypi.org/x",
        "a@b",
        "*",
        "a.*.b",
        "x:y",
        "x:0x50",
        "[::1",
        "a?b",
        "a#b",
    ],
)
def test_an_invalid_rule_is_rejected(text):
    with pytest.raises(ConfigurationError):
        parse_egress_rules((text,))


def test_the_setting_is_none_all_or_hosts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for value, rules in (
        ("", "none"),
        ("none", "none"),
        ("all", "all"),
        ("pypi.org", ("pypi.org",)),
        (" pypi.org , *.blob.core.windows.net,", ("pypi.org", "*.blob.core.windows.net")),
    ):
        monkeypatch.setenv("CCI_EGRESS", value)
        assert Settings.read().egress_rules == rules
        parse_egress_rules(rules)
    assert parse_egress_rules("none") == parse_egress_rules(()) == ()
    assert parse_egress_rules("pypi.org") == parse_egress_rules(["pypi.org"])


METADATA = ["169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%lo", "::ffff:169.254.169.254"]
METADATA += ["64:ff9b::a9fe:a9fe", "168.63.129.16", "fd00:ec2::254", "100.100.100.200", "0.0.0.0"]
METADATA += ["::", "224.0.0.1", "ff02::1", "", "localhost", "2002:a9fe:a9fe::"]
PRIVATE = ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "::1", "fd00::1"]
PRIVATE += ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "fec0::1"]


@pytest.mark.parametrize("address", METADATA)
def test_metadata_services_are_never_allowed(address):
    assert not is_address_allowed(address, private=True)
    assert not is_address_allowed(address, private=False)


def test_private_addresses_are_allowed_only_for_a_named_host():
    for address in PRIVATE:
        assert is_address_allowed(address, private=True)
        assert not is_address_allowed(address, private=False)
    assert is_address_allowed("8.8.8.8", private=False)
    assert is_address_allowed("2606:4700::1111", private=False)


# the proxy


def test_a_named_host_is_allowed_and_others_are_not(serve, site):
    port = site.server_port
    client = serve(f"127.0.0.1:{port}")
    head = "Host: elsewhere.internal\r\nX-Asked: yes\r\nProxy-Authorization: planted\r\n\r\n"
    answer = client.ask(f"GET http://127.0.0.1:{port}/a?b=c#d HTTP/1.1\r\n{head}")
    assert status(answer) == "200"
    assert answer.endswith(f"/a?b=c 127.0.0.1:{port} yes")
    assert "Proxy-Authorization" not in site.headers_seen[-1]
    with client.tunnel(f"127.0.0.1:{port}") as sock:
        sock.sendall(b"GET /tunnel HTTP/1.0\r\n\r\n")
        assert b"/tunnel" in b"".join(iter(lambda: sock.recv(1 << 16), b""))
    for target in (f"localhost:{port}", "127.0.0.1:1", f"127.0.0.2:{port}", f"0x7f.1:{port}"):
        assert status(client.ask(f"CONNECT {target} HTTP/1.1\r\n\r\n")) == "403"
        assert status(client.ask(f"GET http://{target}/ HTTP/1.1\r\n\r\n")) == "403"


def test_a_host_that_does_not_answer_gets_a_bad_gateway_status(serve):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert (
            status(serve(f"127.0.0.1:{port}").ask(f"CONNECT 127.0.0.1:{port} H\r\n\r\n")) == "502"
        )


def test_all_allows_the_internet_but_not_this_machine_or_its_network(serve, site):
    client = serve(rules=parse_egress_rules("all"))
    port = site.server_port
    hosts = ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f000001", "127.1", "0"]
    hosts += ["10.0.0.1", "192.168.1.1", "169.254.169.254", "168.63.129.16", "[fe80::1%25lo]"]
    hosts += ["[::ffff:127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "100.100.100.200"]
    for host in hosts:
        answer = client.ask(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n")
        assert status(answer) in {"403", "502"}, (host, answer)


def test_naming_a_metadata_address_does_not_allow_it(serve):
    client = serve("169.254.169.254", "168.63.129.16")
    for host in ("169.254.169.254", "168.63.129.16"):
        assert status(client.ask(f"CONNECT {host}:80 HTTP/1.1\r\n\r\n")) == "403"
        assert status(client.ask(f"GET http://{host}/metadata HTTP/1.1\r\n\r\n")) == "403"


def test_a_name_is_checked_by_its_address(serve, site, monkeypatch):
    resolved = []

    def resolve(host, _):
        resolved.append(host)
        return ["127.0.0.1" if host.startswith("inward") else "169.254.169.254"]

    monkeypatch.setattr(proxies, "_resolve_addresses", resolve)
    port = site.server_port
    client = serve(
        f"*.example.com:{port}", f"inward.example.org:{port}", f"meta.example.org:{port}"
    )
    for host, answered in (
        ("inward.example.com", "403"),  # a wildcard allows public addresses only
        ("inward.example.org", "403"),  # a public name never leads to this machine itself
        ("meta.example.org", "403"),
        ("INWARD.example.org.", "403"),
    ):
        assert status(client.ask(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n")) == answered, host
    assert set(resolved) == {"inward.example.com", "inward.example.org", "meta.example.org"}


MALFORMED = [
    "",
    "\r\n\r\n",
    "CONNECT\r\n\r\n",
    "CONNECT 127.0.0.1:80\r\n\r\n",
    "CONNECT 127.0.0.1:x HTTP/1.1\r\n\r\n",
    "CONNECT 127.0.0.1:99999 HTTP/1.1\r\n\r\n",
    "CONNECT [::1 HTTP/1.1\r\n\r\n",
    "CONNECT :80 HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET ftp://127.0.0.1/ HTTP/1.1\r\n\r\n",
    "GET https://127.0.0.1/ HTTP/1.1\r\n\r\n",
    "GET http:// HTTP/1.1\r\n\r\n",
    "GET  http://127.0.0.1/ HTTP/1.1\r\n\r\n",
    "CONNECT ev\x1bil:80 HTTP/1.1\r\n\r\n",
    "CONNECT \xe4\xf6:80 HTTP/1.1\r\n\r\n",
    "CONNECT a\0b:80 HTTP/1.1\r\n\r\n",
    f"CONNECT {'a' * 300}:80 HTTP/1.1\r\n\r\n",
    f"GET http://127.0.0.1/ HTTP/1.1\r\nX: {'x' * 200_000}\r\n\r\n",
    "no end of the head",
]


@pytest.mark.parametrize("head", MALFORMED, ids=lambda head: ascii(head[:40]))
def test_a_malformed_request_is_rejected_and_the_proxy_keeps_working(serve, site, head, caplog):
    caplog.set_level("DEBUG")
    client = serve(f"127.0.0.1:{site.server_port}", rules=(EgressRule("*", frozenset({80})),))
    assert status(client.ask(head)) in {"400", ""}
    assert status(client.ask("CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n")) == "403"
    assert "\x1b" not in caplog.text


def test_a_name_that_cannot_be_resolved_gets_a_bad_gateway_status(serve):
    client = serve(rules=parse_egress_rules("all"))
    for host in ("a" * 64, f"{'a' * 64}.com", "a..b"):
        assert status(client.ask(f"CONNECT {host}:80 HTTP/1.1\r\n\r\n")) == "502"


def test_half_closed_connections_still_get_their_answer(serve):
    with listening(echo) as port, serve(f"127.0.0.1:{port}").tunnel(f"127.0.0.1:{port}") as sock:
        sock.sendall(b"x" * 100_000)
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == b"x" * 100_000


def test_both_directions_flow_at_once(serve):
    """A full direction must not block the other one."""
    sent = 64 << 20

    def send(sock):
        for _ in range(sent >> 20):
            sock.sendall(bytes(1 << 20))
        sock.shutdown(socket.SHUT_WR)

    def send_then_read(sock):
        """Send everything before reading anything."""
        with sock:
            send(sock)
            while sock.recv(1 << 20):
                pass

    with (
        listening(send_then_read) as port,
        serve(f"127.0.0.1:{port}").tunnel(f"127.0.0.1:{port}") as sock,
    ):
        sender = threading.Thread(target=send, args=(sock,), daemon=True)
        sender.start()
        time.sleep(0.2)  # until its direction is full
        received = 0
        while chunk := sock.recv(1 << 20):
            received += len(chunk)
        sender.join(20)
        assert not sender.is_alive()
    assert received == sent


def test_connections_are_bounded_and_closed_ones_free_a_slot(serve):
    with listening(echo) as port:
        client = serve(f"127.0.0.1:{port}")
        target = f"127.0.0.1:{port}"
        held = [client.tunnel(target) for _ in range(proxies.MAX_CONNECTIONS)]
        assert status(client.ask(f"CONNECT {target} HTTP/1.1\r\n\r\n")) in {"503", ""}
        for sock in held:
            sock.close()
        deadline = time.monotonic() + 20
        while status(client.ask(f"CONNECT {target} HTTP/1.1\r\n\r\n")) != "200":
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_closing_ends_threads_and_connections(tmp_path):
    before = threading.active_count()
    with listening(echo) as port:
        path = str(tmp_path / "out.sock")
        proxy = proxies.EgressProxy(path, parse_egress_rules((f"127.0.0.1:{port}",)))
        client = Client(path)
        tunnels = [client.tunnel(f"127.0.0.1:{port}") for _ in range(5)]
        waiting = client.connect()
        proxy.close()
        for sock in (*tunnels, waiting):
            with sock:
                try:
                    assert sock.recv(1) == b""
                except ConnectionError:
                    pass
        with (
            socket.socket(socket.AF_UNIX) as late,
            pytest.raises(OSError, match=r"refused|No such"),
        ):
            late.connect(path)
    deadline = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.05)


def test_a_connection_that_is_made_during_close_is_aborted(tmp_path, monkeypatch):
    """The connection is accepted, but its host is resolved only after the close."""
    resolving, closed = threading.Event(), threading.Event()

    def resolve(*_):
        resolving.set()
        assert closed.wait(20)
        return ["127.0.0.1"]

    monkeypatch.setattr(proxies, "_resolve_addresses", resolve)
    ended = threading.Event()

    def wait_for_end(sock):
        """Send nothing, and set `ended` when the connection is closed."""
        with sock:
            sock.settimeout(20)
            try:
                sock.recv(1)
                sock.sendall(b"x")
                while sock.recv(1):
                    pass
            except OSError:
                pass
            ended.set()

    with listening(wait_for_end) as port:
        path = str(tmp_path / "out.sock")
        proxy = proxies.EgressProxy(path, parse_egress_rules((f"slow:{port}",)))
        with closing(Client(path).connect()) as sock:
            sock.sendall(f"CONNECT slow:{port} HTTP/1.1\r\n\r\n".encode())
            assert resolving.wait(20)
            proxy.close()
            closed.set()
            assert ended.wait(20)


# sessions


@pytest.fixture(scope="module")
async def bubblewrap(anyio_backend):
    try:
        await choose("bwrap", spec_of())
    except IsolationError as error:
        pytest.skip(f"the egress proxy needs bubblewrap: {error}")


ASK = """
import urllib.request, urllib.error
def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ''
    except OSError as error:
        return 'failed', type(error).__name__
"""


async def test_a_session_reaches_the_named_host_only(bubblewrap, site):
    port = site.server_port
    async with LocalSessionPool(egress=(f"127.0.0.1:{port}",), ready_sessions=0) as pool:
        assert pool.capabilities.egress is True
        assert f"127.0.0.1:{port}" in pool.capabilities.isolation
        output = await run(
            pool,
            f"{ASK}\nprint(ask('http://127.0.0.1:{port}/x'))\n"
            f"print(ask('http://127.0.0.2:{port}/x')[0], ask('http://169.254.169.254/')[0])\n"
            "import socket\n"
            "try:\n"
            f"    socket.create_connection(('127.0.0.1', {port}), 5)\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)",
        )
        assert output.splitlines() == [
            f"(200, '/x 127.0.0.1:{port} None')",
            "403 403",
            "ConnectionRefusedError",
        ]
        child = (
            "import subprocess, sys, os\n"
            "names = ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY')\n"
            "print(len({os.environ[name] for name in names}))\n"
            "code = 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:"
            f"{port}/child\", timeout=20).read().decode())'\n"
            "print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,"
            " timeout=60).stdout)"
        )
        assert (await run(pool, child)).split()[:2] == ["1", "/child"]


async def test_a_session_without_egress_has_no_variables_and_no_network(bubblewrap, site):
    async with LocalSessionPool(isolation="bwrap", ready_sessions=0) as pool:
        assert pool.capabilities.egress is False
        output = await run(
            pool,
            f"{ASK}\nimport os\nprint([n for n in os.environ if 'proxy' in n.lower()])\n"
            f"print(ask('http://127.0.0.1:{site.server_port}/')[0])",
        )
        assert output.splitlines() == ["[]", "failed"]


WORKERS = ("AnyIO worker thread", "asyncio_", "cci-plugins")  # those of event loops stay


async def test_closing_the_pool_ends_every_proxy(bubblewrap, site):
    before = set(threading.enumerate())
    with listening(echo) as port:
        async with LocalSessionPool(egress=(f"127.0.0.1:{port}",), ready_sessions=0) as pool:
            await run(
                pool,
                "import os, socket, urllib.parse\n"
                "way = urllib.parse.urlsplit(os.environ['http_proxy'])\n"
                "held = [socket.create_connection((way.hostname, way.port)) for _ in range(10)]\n"
                f"[s.sendall(b'CONNECT 127.0.0.1:{port} H\\r\\n\\r\\n') for s in held]\n"
                "print([s.recv(99)[9:12] for s in held])",
            )
    deadline = time.monotonic() + 20
    while left := [
        t for t in set(threading.enumerate()) - before if not t.name.startswith(WORKERS)
    ]:
        assert time.monotonic() < deadline, left
        await anyio.sleep(0.05)


async def test_a_backend_that_cannot_limit_egress_to_hosts_is_rejected():
    try:
        await choose("landlock", spec_of())
    except IsolationError as error:
        pytest.skip(f"landlock does not hold here: {error}")
    for egress in (("pypi.org",), "all"):
        with pytest.raises(IsolationError, match="cannot limit egress to hosts"):
            async with LocalSessionPool(isolation="landlock", egress=egress, ready_sessions=0):
                raise AssertionError("it must not start")


async def test_without_isolation_only_all_is_accepted(site):
    with pytest.raises(IsolationError):
        async with LocalSessionPool(isolation="process", egress=("pypi.org",), ready_sessions=0):
            raise AssertionError("it must not start")
    async with LocalSessionPool(isolation="process", egress="all", ready_sessions=0) as pool:
        assert pool.capabilities.egress is True
        output = await run(pool, f"{ASK}\nprint(ask('http://127.0.0.1:{site.server_port}/p')[0])")
        assert output.strip() == "200"
    assert os.environ.get("http_proxy", "").find("127.0.0.1") == -1
