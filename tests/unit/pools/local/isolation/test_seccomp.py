"""The seccomp programs, run by a small interpreter of classic BPF."""

import errno
import struct

import pytest

from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
MACHINES = ["x86_64", "aarch64"]


def run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return what the kernel would do with this call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    steps = list(struct.iter_unpack("HBBI", program))
    value, position = 0, 0
    while True:
        code, if_true, if_false, operand = steps[position]
        position += 1
        if code == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return operand
        else:
            met = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}
            position += if_true if met[code] else if_false


def errno_of(program: bytes, machine: str, number: int, *arguments: int) -> int | None:
    """Return the errno of a refused call, or None for an allowed one."""
    result = run(program, seccomp.ARCHITECTURES[machine], number, *arguments)
    if result == ALLOW:
        return None
    assert result & 0xFFFF0000 == ERRNO
    return result & 0xFFFF


@pytest.fixture(params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture
def column(machine):
    return MACHINES.index(machine)


@pytest.fixture
def bwrap(machine):
    return seccomp.build_session_filter(own_network=True, guard_metadata=False, machine=machine)


@pytest.fixture
def landlock(machine):
    return seccomp.build_session_filter(own_network=False, guard_metadata=True, machine=machine)


def numbers(calls, column):
    return [pair[column] for pair in calls.values() if pair[column] is not None]


def test_dangerous_calls_are_refused(bwrap, landlock, machine, column):
    for program in (bwrap, landlock):
        for number in numbers(seccomp.FORBIDDEN_CALLS, column):
            assert errno_of(program, machine, number) == errno.EPERM
        for number in numbers(seccomp.ABSENT_CALLS, column):
            assert errno_of(program, machine, number) == errno.ENOSYS


def test_ordinary_calls_pass(bwrap, landlock, machine, column):
    ordinary = [(0, 63), (1, 64), (9, 222), (257, 56), (202, 98), (61, 260), (60, 93), (59, 221)]
    for program in (bwrap, landlock):
        for pair in ordinary:
            assert errno_of(program, machine, pair[column]) is None


def test_another_architecture_is_killed(bwrap):
    assert run(bwrap, 0x40000003, 1) == KILL


def test_calls_newer_than_this_list_are_absent(bwrap, machine):
    assert errno_of(bwrap, machine, seccomp.NEWEST_CALL) == errno.ENOSYS
    assert errno_of(bwrap, machine, 0x40000000 + 1) == errno.ENOSYS


@pytest.mark.parametrize("bit", [7, 17, 25, 26, 27, 28, 29, 30])
def test_clone_makes_no_namespace(bwrap, machine, column, bit):
    clone = seccomp.CLONE[column]
    expected = errno.EPERM if bit != 7 else None  # CLONE_NEWTIME exists for clone3 only
    assert errno_of(bwrap, machine, clone, 1 << bit | 17) == expected


def test_clone_makes_threads_and_processes(bwrap, machine, column):
    clone = seccomp.CLONE[column]
    assert errno_of(bwrap, machine, clone, 17) is None
    assert errno_of(bwrap, machine, clone, 0x3D0F00) is None


def test_sockets_by_family(bwrap, landlock, machine, column):
    socket = seccomp.SOCKET[column]
    for family in range(64):
        ip = family in {2, 10}
        inside, outside = (
            errno_of(program, machine, socket, family, 1) for program in (bwrap, landlock)
        )
        if family == 1:
            assert (inside, outside) == (None, None)
        elif ip:
            assert (inside, outside) == (None, errno.EAFNOSUPPORT)
        elif family == 16:
            assert (inside, outside) == (None, errno.EOPNOTSUPP)  # NETLINK_ROUTE is protocol 0
            assert errno_of(bwrap, machine, socket, family, 3, 9) == errno.EOPNOTSUPP
        else:
            assert (inside, outside) == (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT)


def test_no_ip_protocol_but_tcp_and_udp(bwrap, machine, column):
    for family in (2, 10):
        for protocol in range(300):
            expected = None if protocol in {0, 6, 17} else errno.EPROTONOSUPPORT
            found = errno_of(bwrap, machine, seccomp.SOCKET[column], family, 1, protocol)
            assert found == expected


def test_memory_and_descriptors_cannot_leave_what_the_watchdog_counts(
    bwrap, landlock, machine, column
):
    for program in (bwrap, landlock):
        for flags, expected in ((0x21, errno.EPERM), (0x23, errno.EPERM), (0x22, None), (1, None)):
            assert errno_of(program, machine, seccomp.MMAP[column], 0, 0, 3, flags) == expected
        prctl, clone = seccomp.PRCTL[column], seccomp.CLONE[column]
        assert errno_of(program, machine, prctl, 4, 0) == errno.EPERM
        assert errno_of(program, machine, prctl, 4, 1) is None
        assert errno_of(program, machine, prctl, 15, 0) is None
        assert errno_of(program, machine, clone, 0x3D0F00 & ~0x400) == errno.EPERM
        for option in range(64):
            expected = 0 if option in {7, 8, 32, 33} else None
            assert errno_of(program, machine, seccomp.SETSOCKOPT[column], 3, 1, option) == expected
            assert errno_of(program, machine, seccomp.SETSOCKOPT[column], 3, 6, option) is None


def test_a_process_may_change_only_its_own_limits_and_processors(bwrap, machine, column):
    for *pair, argument in seccomp.ZERO_ARGUMENT_CALLS.values():
        own = [0, 0]
        other = [0, 0]
        other[argument] = 4711
        assert errno_of(bwrap, machine, pair[column], *own) is None
        assert errno_of(bwrap, machine, pair[column], *other) == errno.EPERM


def test_no_input_is_forged_on_a_terminal(bwrap, machine, column):
    ioctl = seccomp.IOCTL[column]
    assert errno_of(bwrap, machine, ioctl, 0, seccomp.TIOCSTI) == errno.EPERM
    assert errno_of(bwrap, machine, ioctl, 0, seccomp.TIOCLINUX) == errno.EPERM
    assert errno_of(bwrap, machine, ioctl, 0, 0x5401) is None


def test_metadata_is_guarded_where_the_hosts_files_are_visible(bwrap, landlock, machine, column):
    expected = {
        0: seccomp.NO_OP_CALLS,
        errno.EOPNOTSUPP: seccomp.UNSUPPORTED_CALLS,
        errno.EPERM: seccomp.OWNERSHIP_CALLS,
    }
    for error, calls in expected.items():
        for number in numbers(calls, column):
            assert errno_of(landlock, machine, number) == error
            assert errno_of(bwrap, machine, number) is None


def test_the_post_start_filter_refuses_new_connections(machine, column):
    program = seccomp.build_post_start_filter(machine)
    for number in numbers(seccomp.CONNECT_CALLS, column):
        assert errno_of(program, machine, number) == errno.EACCES
    pair = seccomp.SOCKETPAIR[column]
    assert errno_of(program, machine, pair, 1, 1 | 0o2000000) is None
    assert errno_of(program, machine, pair, 1, 2) == errno.EACCES
    assert errno_of(program, machine, pair, 1, 5) == errno.EACCES
    assert errno_of(program, machine, 0) is None


def test_programs_fit_the_kernels_limit(bwrap, landlock):
    for program in (bwrap, landlock):
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096


def test_unknown_machines_are_not_supported():
    seccomp.check_machine("x86_64")
    with pytest.raises(IsolationError, match="'s390x'"):
        seccomp.check_machine("s390x")


def test_threads_share_descriptors_and_nothing_is_taken_that_cannot_be_counted(
    bwrap, landlock, machine, column
):
    close_range, mmap, ioctl, splice = [(436, 436), (9, 222), (16, 29), (275, 76)]
    for program in (bwrap, landlock):
        assert errno_of(program, machine, close_range[column], 3, 9, 2) == errno.EINVAL
        assert errno_of(program, machine, close_range[column], 3, 9, 6) == errno.EINVAL
        assert errno_of(program, machine, close_range[column], 3, 9, 4) is None
        assert errno_of(program, machine, mmap[column], 0, 9, 3, 0x40022) == errno.ENOMEM
        assert errno_of(program, machine, mmap[column], 0, 9, 3, 0x22) is None
        assert errno_of(program, machine, ioctl[column], 0, 0x5423) == errno.EPERM
        assert errno_of(program, machine, ioctl[column], 0, 0x5412) == errno.EPERM
        assert errno_of(program, machine, ioctl[column], 0, 0x5401) is None
        assert errno_of(program, machine, splice[column]) == errno.EINVAL
