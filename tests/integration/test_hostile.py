"""Tests of what hostile code must not be able to do, with the real sandboxes."""

# ruff: noqa: ASYNC240, PTH101, PTH208 - short blocking calls on local files

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import pytest

from cci_plugins.errors import FileTooLargeError, FileTransferError, SessionFileNotFoundError

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = pytest.mark.anyio
MIB = 1024**2
SECRET = "a-secret-that-no-session-may-see"
REFUSED = (
    "PermissionError",
    "FileNotFoundError",
    "OSError",
    "NotADirectoryError",
    "ConnectionRefusedError",
)


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def backend(request):
    return request.param


@pytest.fixture(scope="module")
async def kernel(backend, sandboxed_kernel):
    """The kernel of an application that has a secret in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCI_TEST_TOKEN", SECRET)
        async with sandboxed_kernel(backend) as kernel:
            yield kernel


@pytest.fixture
def open_folder():
    """A folder of the host that every user may read and write."""
    folder = Path(tempfile.mkdtemp(prefix="cci-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bystander():
    """Another process of this user, with a secret in its environment and arguments."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)", SECRET], env={"TOKEN": SECRET}
    )
    yield process
    process.kill()
    process.wait()


async def check_refused(kernel, code: str) -> None:
    output = await kernel.run(code)
    assert output.split(":")[0] in REFUSED, output


async def test_code_cannot_read_the_hosts_files(kernel, open_folder):
    secret = open_folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    await check_refused(kernel, f"print(open({str(secret)!r}).read())")
    await check_refused(kernel, "print(open('/etc/shadow').read())")


async def test_code_cannot_read_the_home_folder(kernel):
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".cci-test-") as secret:
        Path(secret.name).chmod(0o644)
        await check_refused(kernel, f"print(open({secret.name!r}).read())")


PROJECT = str(Path(__file__).parents[2])


@pytest.mark.parametrize("place", ["/root", "/home", "/var", "/etc", PROJECT, "/proc/1/root/root"])
async def test_folders_of_the_host_show_nothing_of_it(kernel, place):
    output = await kernel.run(
        f"import os\ntry: print(os.listdir({place!r}))\nexcept OSError: print([])"
    )
    host = set(os.listdir(place)) if os.access(place, os.R_OK) else set()
    shown = set(eval(output))
    harmless = {"passwd", "group", "hosts", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "fonts"}
    harmless |= {"ld.so.conf.d", "alternatives", "localtime", "ssl", "mime.types", "session"}
    # the interpreter's own path
    harmless |= {*Path(sys.prefix).parts, *Path(sys.base_prefix).parts}
    assert not (shown & host) - harmless


async def test_code_cannot_reach_another_sessions_files(kernel, backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as other:
        other.sandbox.folder.write("mine.txt", SECRET.encode())
        path = (await other.run("import os; print(os.path.abspath('mine.txt'))")).strip()
        await other.run(f"open('/tmp/{SECRET}', 'w')")
        output = await kernel.run(f"print(open({path!r}).read())")
        assert SECRET not in output
        assert SECRET not in await kernel.run("import os; print(os.listdir('/tmp'))")
        pids = [str(process) for process in _list_processes(other.sandbox)]
        output = await kernel.run(
            f"import os\nfor p in {pids}:\n"
            f"  for what in ('root', 'cwd', 'environ', 'fd'):\n"
            f"    try: print(os.listdir(f'/proc/{{p}}/{{what}}{path.rpartition('/')[0]}'))\n"
            f"    except OSError: pass"
        )
        assert "mine.txt" not in output


async def test_code_sees_no_environment_but_its_own(kernel, bystander):
    output = await kernel.run(
        "import glob, os\nfound = [repr(dict(os.environ))]\n"
        "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
        "    try: found.append(open(path).read())\n"
        "    except OSError: pass\n"
        "print(found)"
    )
    assert SECRET not in output


async def test_variables_of_the_app_are_not_inherited(kernel):
    assert SECRET in os.environ.values()
    output = await kernel.run(
        "import os, subprocess\nprint(dict(os.environ))\n"
        "print(subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    assert "PATH" in output
    assert SECRET not in output


async def test_code_reaches_no_tcp_listener(kernel):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        await check_refused(
            kernel, f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)"
        )
        with pytest.raises(TimeoutError):
            listener.accept()


async def test_code_reaches_no_udp_listener(kernel):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        await kernel.run(
            "import socket\n"
            f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
        )
        with pytest.raises(TimeoutError):
            listener.recv(1)


@pytest.mark.parametrize("abstract", [False, True])
async def test_code_reaches_no_unix_listener(kernel, open_folder, abstract):
    address = f"\0cci-test-{os.getpid()}" if abstract else str(open_folder / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        if not abstract:
            os.chmod(address, 0o777)
        listener.listen()
        listener.settimeout(0.2)
        output = await kernel.run(
            f"import socket; socket.socket(socket.AF_UNIX).connect({address!r})"
        )
        assert output.split(":")[0] in REFUSED
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "arguments",
    [
        "socket.AF_INET, socket.SOCK_RAW, 1",
        "socket.AF_PACKET, socket.SOCK_RAW",
        "socket.AF_VSOCK, socket.SOCK_STREAM",
        "socket.AF_ALG, socket.SOCK_SEQPACKET",
        "socket.AF_NETLINK, socket.SOCK_RAW, 9",
        "38, socket.SOCK_STREAM",
        "31, socket.SOCK_RAW, 1",
    ],
)
async def test_code_gets_no_unusual_socket(kernel, arguments):
    await check_refused(kernel, f"import socket; socket.socket({arguments})")


async def test_code_cannot_write_outside_its_folders(kernel, open_folder):
    for place in ("/x", "/usr/x", "/etc/x", "/dev/x", "/run/x", str(open_folder / "x")):
        await check_refused(kernel, f"open({place!r}, 'w').write('x')")
    assert list(open_folder.iterdir()) == []


async def test_code_cannot_change_modes_times_or_owners_outside(kernel, open_folder):
    target = open_folder / "target"
    target.write_text("x")
    target.chmod(0o600)
    before = target.stat()
    interpreter = Path(os.path.realpath(sys.executable)).stat()
    for path in (target, Path(os.path.realpath(sys.executable))):
        await kernel.run(
            f"import contextlib, os\n"
            f"for do in (lambda p: os.chmod(p, 0o777), lambda p: os.utime(p, (1, 1)),\n"
            f"           lambda p: os.chown(p, 65534, 65534), lambda p: os.truncate(p, 0),\n"
            f"           lambda p: os.setxattr(p, 'user.x', b'1'),\n"
            f"           lambda p: os.fchmod(os.open(p, os.O_RDONLY), 0)):\n"
            f"    with contextlib.suppress(OSError): do({str(path)!r})"
        )
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_size) == (
        before.st_mode, before.st_uid, before.st_mtime_ns, before.st_size
    )  # fmt: skip
    assert os.listxattr(target) == []
    assert Path(os.path.realpath(sys.executable)).stat().st_mode == interpreter.st_mode


async def test_code_cannot_touch_other_processes(kernel, bystander):
    pid = bystander.pid
    await kernel.run(
        f"import contextlib, os, resource, signal\n"
        f"for do in (lambda: os.kill({pid}, 9), lambda: os.kill(-1, 0),\n"
        f"           lambda: resource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0)),\n"
        f"           lambda: os.setpriority(os.PRIO_USER, 0, 19),\n"
        f"           lambda: os.sched_setaffinity({pid}, [0]),\n"
        f"           lambda: os.setpriority(os.PRIO_PROCESS, {pid}, 19)):\n"
        f"    with contextlib.suppress(OSError): do()"
    )
    assert bystander.poll() is None
    assert "Max open files            0" not in Path(f"/proc/{pid}/limits").read_text()
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    output = await kernel.run(
        f"import ctypes; print(ctypes.CDLL(None).ptrace(16, {pid}, 0, 0),"
        f" ctypes.CDLL(None).ptrace(0, 0, 0, 0))"
    )
    assert output == "-1 -1"


@pytest.mark.quick("landlock")
async def test_kill_everything_reaches_only_the_session(backend, sandboxed_kernel, bystander):
    async with sandboxed_kernel(backend) as victim:
        await victim.run("import os\ntry: os.kill(-1, 9)\nexcept OSError: pass")
        assert bystander.poll() is None
        await victim.kill()
        assert bystander.poll() is None


async def test_kernel_settings_are_read_only(kernel):
    for name in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score"):
        await check_refused(kernel, f"import os; os.open({name!r}, os.O_WRONLY)")


async def test_code_gets_no_rights_back(kernel):
    await check_refused(kernel, "import os; os.setuid(0)")
    await check_refused(kernel, "import os; os.setgroups([0])")
    output = await kernel.run("import os; print(0 in (os.getuid(), os.geteuid(), os.getgid()))")
    assert output == "False"
    output = await kernel.run(
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "print([libc.unshare(1 << n) for n in (7, 17, 25, 26, 27, 28, 29, 30)],"
        " libc.setns(0, 0), libc.chroot(b'/tmp'), libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0),"
        " libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0))"
    )
    assert output == "[-1, -1, -1, -1, -1, -1, -1, -1] -1 -1 -1 1 2"
    await kernel.run("import subprocess; p = subprocess.run(['unshare', '-r', 'true'])")
    assert await kernel.run("print(p.returncode == 0)") == "False"


async def test_set_uid_programs_give_nothing(kernel):
    output = await kernel.run(
        "import subprocess\n"
        "done = subprocess.run(['/usr/bin/su', '-c', 'id'], capture_output=True, text=True,"
        " stdin=subprocess.DEVNULL)\nprint('uid=0' in done.stdout)"
    )
    assert output.split(":")[0] in ("False", *REFUSED)


async def test_memory_that_no_limit_counts_is_refused(kernel):
    await check_refused(kernel, "import os; os.memfd_create('x')")
    output = await kernel.run(
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "print(libc.shmget(0, 4096, 0o1600), libc.msgget(0, 0o1600), libc.semget(0, 1, 0o1600),"
        " libc.syscall(447, 0), libc.syscall(425, 8, 0))"
    )
    assert output == "-1 -1 -1 -1 -1"


async def test_one_process_cannot_have_all_memory(kernel):
    assert (await kernel.run("b = bytearray(5 * 1024**3)")).startswith("MemoryError")


@pytest.mark.quick("bwrap")
async def test_memory_of_all_processes_is_measured(kernel):
    before = kernel.sandbox.measure_memory()
    await kernel.run(
        "import subprocess, sys\n"
        "code = 'b = b\"x\" * (100 << 20); print(1, flush=True); import time; time.sleep(99)'\n"
        "ps = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,"
        " start_new_session=True) for _ in range(3)]\n"
        "[p.stdout.readline() for p in ps]"
    )
    assert 280 * MIB < kernel.sandbox.measure_memory() - before < 500 * MIB
    await kernel.run("for p in ps: p.kill(); p.wait()")


@pytest.mark.quick("bwrap")
async def test_files_in_memory_count_as_memory(backend, kernel):
    if backend != "bwrap":
        pytest.skip("only bwrap keeps a session's files in memory")
    before = kernel.sandbox.measure_memory()
    await kernel.run("open('/dev/shm/x', 'wb').write(b'x' * (50 << 20))")
    await kernel.run("open('/tmp/x', 'wb').write(b'x' * (50 << 20))")
    assert kernel.sandbox.measure_memory() - before > 95 * MIB
    await kernel.run("import os; os.remove('/dev/shm/x'); os.remove('/tmp/x')")


@pytest.mark.quick("bwrap")
async def test_a_fork_bomb_is_bounded(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend, processes=64) as bomb:
        output = await bomb.run(
            "import os, time\nn = 0\n"
            "try:\n"
            "    while n < 500:\n"
            "        if os.fork() == 0: time.sleep(300); os._exit(0)\n"
            "        n += 1\n"
            "except OSError: pass\n"
            "print(n)"
        )
        assert 0 < int(output) < 64
        started = time.monotonic()
        await bomb.kill()
        assert time.monotonic() - started < 10


@pytest.mark.quick("landlock")
async def test_the_disk_is_bounded(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend, disk_bytes=16 * MIB, file_bytes=64 * MIB) as hog:
        output = await hog.run("open('x', 'wb').write(b'x' * (32 << 20))")
        if backend == "bwrap":
            assert "No space left" in output
        else:  # the pool's watchdog ends the session
            assert hog.sandbox.folder.measure_usage()[0] > 16 * MIB
        output = await hog.run("open('/tmp/x', 'wb').write(b'x' * (100 << 20))")
        with pytest.raises(FileTooLargeError):
            hog.sandbox.folder.write("y", b"x" * (17 * MIB))
        assert "y" not in hog.sandbox.folder.scan()


@pytest.mark.quick("landlock")
async def test_many_files_are_counted(kernel):
    await kernel.run("import os\nos.mkdir('many')\nfor n in range(3000): open(f'many/{n}', 'w')")
    assert kernel.sandbox.folder.measure_usage()[1] >= 3000
    assert len(kernel.sandbox.folder.scan(limit=100)) == 100
    await kernel.run("import shutil; shutil.rmtree('many')")


async def test_links_planted_by_the_code_are_not_followed(kernel):
    await kernel.run(
        "import os\n"
        "os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'way'); os.mkfifo('pipe')\n"
        "os.mkdir('deep'); os.symlink('../way', 'deep/way'); open('real', 'w').write('1')"
    )
    folder = kernel.sandbox.folder
    for name in ("link", "way/passwd", "deep/way/passwd", "pipe", "way", "deep"):
        with anyio.fail_after(2), pytest.raises(SessionFileNotFoundError):
            await anyio.to_thread.run_sync(folder.open_read, name)
    for name in ("way/new", "deep/way/new"):
        with pytest.raises(FileTransferError):
            folder.write(name, b"x")
    assert not Path("/etc/new").exists()
    assert set(folder.scan()) & {"link", "way", "pipe", "deep", "real"} == {"real"}
    folder.write("link", b"replaced")
    assert b"".join(folder.read("link")) == b"replaced"


async def test_code_reads_and_writes_the_same_files_as_the_host(kernel):
    folder = kernel.sandbox.folder
    folder.write("in/data.txt", b"from the host")
    assert await kernel.run("print(open('in/data.txt').read())") == "from the host"
    await kernel.run("open('in/data.txt', 'a').write('!'); open('in/new', 'w').write('made')")
    assert b"".join(folder.read("in/data.txt")) == b"from the host!"
    folder.remove("in/new")
    assert await kernel.run("import os; print(os.listdir('in'))") == "['data.txt']"


async def test_ordinary_work_still_succeeds(kernel):
    output = await kernel.run(
        "import shutil, subprocess, sqlite3, tempfile, threading, os\n"
        "open('a', 'w').write('x'); shutil.copy('a', 'b'); shutil.copy2('a', 'c')\n"
        "print(subprocess.run(['echo', 'hi'], capture_output=True, text=True).stdout.strip())\n"
        "with tempfile.TemporaryDirectory() as t: open(t + '/x', 'w').write('1')\n"
        "sqlite3.connect(':memory:').execute('select 1'); os.listdir('.')\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()"
    )
    assert output == "hi\nthread"


async def test_numpy_works(kernel):
    pytest.importorskip("numpy")
    output = await kernel.run(
        "import numpy as np; a = np.random.rand(300, 300); print((a @ a).shape)", timeout=60
    )
    assert output == "(300, 300)"


def _list_processes(sandbox):
    from cci_plugins.pools.local.isolation.launcher.supervisor import iter_descendants

    return list(iter_descendants(sandbox.child.process.pid))


ORDINARY_USER = 12345


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_the_same_holds_for_an_ordinary_user():
    from cci_plugins.pools.local.isolation.interpreter import is_reachable_by_anyone

    for path in (sys.executable, sys.base_prefix, __file__):
        if not is_reachable_by_anyone(path):
            pytest.skip(f"{path} cannot be read by user {ORDINARY_USER}")
    home = tempfile.mkdtemp(prefix="cci-test-")
    os.chown(home, ORDINARY_USER, ORDINARY_USER)
    try:
        done = subprocess.run(
            [
                *("setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}"),
                *("--clear-groups", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(__file__, str(Path(__file__).with_name("test_isolation.py"))),
                str(Path(__file__).with_name("test_floods.py")),
            ],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(home)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
