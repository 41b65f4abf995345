"""Builder of the seccomp programs (classic BPF) for a session's kernel.

The session filter is set before anything of the session runs, the post-start filter once its kernel
listens. Both allow what they do not name, up to `NEWEST_CALL`. Later calls report ENOSYS, so that a
new kernel never adds a way out. A wrong architecture kills the process: it would mean that the call
numbers below are not those of the caller (32-bit calls on x86_64).

A program is a list of instructions with relative jumps. Each rule compares the call's number and
jumps over its own body when the number differs. A rule that loads an argument always returns,
because the accumulator no longer holds the number.
"""

from __future__ import annotations

import errno
import platform
import struct

from cci_plugins.errors import IsolationError

# Name: number on (x86_64, aarch64), or None where the machine lacks the call.
Calls = dict[str, tuple[int | None, int | None]]

FORBIDDEN_CALLS: Calls = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # parts of the kernel that no session needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "lookup_dcookie": (212, 18),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "vhangup": (153, 58),
    "fanotify_init": (300, 262),
}
# Refused as if the kernel were too old, so that libraries use their older code. io_uring and clone3
# have arguments that a filter cannot see. The others make memory that neither RLIMIT_AS nor PSS
# counts, objects that outlive their process, or use up what the whole machine shares (`io_setup`).
ABSENT_CALLS: Calls = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "vmsplice": (278, 75),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "listns": (470, 470),
}
# Refused as for files that cannot be spliced, so that programs copy instead. A pipe would keep a
# whole large page of a socket for one byte.
SPLICE_CALLS: Calls = {"splice": (275, 76), "tee": (276, 77)}
# Landlock does not restrict these on files outside the session. They report success and change
# nothing, because shutil.copy() and tarfile must keep working.
NO_OP_CALLS: Calls = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
UNSUPPORTED_CALLS: Calls = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
OWNERSHIP_CALLS: Calls = {
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "inotify_add_watch": (254, 27),
}
# Allowed only with 0 as this argument (the third value): the caller itself, or the normal policy of
# scheduling. libzmq sets that for its threads and aborts when it cannot.
ZERO_ARGUMENT_CALLS: dict[str, tuple[int, int, int]] = {
    "prlimit64": (302, 261, 0),
    "sched_setaffinity": (203, 122, 0),
    "sched_setscheduler": (144, 119, 1),
}
# Refused once a kernel without its own network listens: new connections, and messages that can
# carry descriptors. A descriptor on its way is in no process, where the watchdog could count it.
CONNECT_CALLS: Calls = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEWEST_CALL = 471
NEW_NAMESPACES, CLONE_FILES, CLONE_THREAD = 0x7E020000, 0x400, 0x10000
CLONE, SOCKET, IOCTL, SOCKETPAIR = (56, 220), (41, 198), (16, 29), (53, 199)
MMAP, PRCTL, SETSOCKOPT, CLOSE_RANGE = (9, 222), (157, 167), (54, 208), (436, 436)
CLOSE_RANGE_UNSHARE = 2
MAP_SHARED_ANONYMOUS, MAP_HUGETLB = 0x21, 0x40000
PR_SET_DUMPABLE = 4
SOL_SOCKET, BUFFER_OPTIONS = 1, (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and the two with FORCE
IP_PROTOCOLS = (0, 6, 17)  # the default, TCP and UDP
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ARGUMENTS = (16, 24, 32, 40)  # offsets of the low 32 bits in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def check_machine(machine: str = "") -> None:
    """Check that the programs exist for this type of machine.

    Args:
        machine: Its type, as `platform.machine()` returns it. Empty for this machine.

    Raises:
        IsolationError: They do not.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise IsolationError(f"no seccomp filter exists for a machine of type {machine!r}")


def build_session_filter(*, own_network: bool, guard_metadata: bool, machine: str = "") -> bytes:
    """Build the filter set before anything of the session runs.

    Args:
        own_network: The session has its own network namespace, where IP sockets lead nowhere.
        guard_metadata: The host's files are visible (no mount namespace), so modes, times, owners
            and attributes must not change.
        machine: The type of machine, as for `check_machine`.
    """
    builder = _ProgramBuilder(machine)
    builder.refuse(FORBIDDEN_CALLS, errno.EPERM)
    builder.refuse(ABSENT_CALLS, errno.ENOSYS)
    builder.refuse(SPLICE_CALLS, errno.EINVAL)
    if guard_metadata:
        builder.refuse(NO_OP_CALLS, 0)
        builder.refuse(UNSUPPORTED_CALLS, errno.EOPNOTSUPP)
        builder.refuse(OWNERSHIP_CALLS, errno.EPERM)
    builder.require_zero(ZERO_ARGUMENT_CALLS)
    builder.restrict_clone()
    builder.refuse_uncounted_memory()
    builder.keep_processes_readable()
    builder.ignore_buffer_sizes()
    builder.allow_families((AF_UNIX, AF_INET, AF_INET6) if own_network else (AF_UNIX,), own_network)
    builder.refuse_terminal_input()
    return builder.finish()


def build_post_start_filter(machine: str = "") -> bytes:
    """Build the second filter, under which no new connection can be made."""
    builder = _ProgramBuilder(machine)
    builder.refuse(CONNECT_CALLS, errno.EACCES)
    builder.allow_stream_pairs()
    return builder.finish()


def _encode(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _encode_refusal(number: int) -> bytes:
    return _encode(_RETURN, _ERRNO | number)


class _ProgramBuilder:
    """A program under construction. Between rules the accumulator holds the call's number."""

    def __init__(self, machine: str) -> None:
        machine = machine or platform.machine()
        self._column = list(ARCHITECTURES).index(machine)
        self._instructions = [
            _encode(_LOAD, 4),
            _encode(_EQUAL, ARCHITECTURES[machine], 1, 0),
            _encode(_RETURN, _KILL),
            _encode(_LOAD, 0),
            _encode(_AT_LEAST, NEWEST_CALL, 0, 1),
            _encode_refusal(errno.ENOSYS),
        ]

    def refuse(self, calls: Calls, number: int) -> None:
        for numbers in calls.values():
            call = numbers[self._column]
            if call is not None:
                self._instructions += [_encode(_EQUAL, call, 0, 1), _encode_refusal(number)]

    def require_zero(self, calls: dict[str, tuple[int, int, int]]) -> None:
        for *numbers, argument in calls.values():
            self._add_rule(
                (numbers[0], numbers[1]),
                _encode(_LOAD, _ARGUMENTS[argument]),
                _encode(_EQUAL, 0, 1, 0),
                _encode_refusal(errno.EPERM),
                _encode(_RETURN, _ALLOW),
            )

    def restrict_clone(self) -> None:
        """Refuse new namespaces, and threads with descriptors of their own.

        The watchdog counts the descriptors of a process, which are those of its first thread.
        """
        self._add_rule(
            CLONE,
            _encode(_LOAD, _ARGUMENTS[0]),
            _encode(_ANY_BIT, NEW_NAMESPACES, 2, 0),
            _encode(_ANY_BIT, CLONE_THREAD, 0, 2),
            _encode(_ANY_BIT, CLONE_FILES, 1, 0),
            _encode_refusal(errno.EPERM),
            _encode(_RETURN, _ALLOW),
        )
        self._add_rule(
            CLOSE_RANGE,
            _encode(_LOAD, _ARGUMENTS[2]),
            _encode(_ANY_BIT, CLOSE_RANGE_UNSHARE, 0, 1),
            _encode_refusal(errno.EINVAL),
            _encode(_RETURN, _ALLOW),
        )

    def refuse_uncounted_memory(self) -> None:
        """Refuse shared memory without a file, in which pages that are not mapped any longer stay.

        The machine's reserved huge pages are in no size of a process either.
        """
        self._add_rule(
            MMAP,
            _encode(_LOAD, _ARGUMENTS[3]),
            _encode(_ANY_BIT, MAP_HUGETLB, 0, 1),
            _encode_refusal(errno.ENOMEM),
            _encode(_AND, MAP_SHARED_ANONYMOUS),
            _encode(_EQUAL, MAP_SHARED_ANONYMOUS, 0, 1),
            _encode_refusal(errno.EPERM),
            _encode(_RETURN, _ALLOW),
        )

    def keep_processes_readable(self) -> None:
        """Refuse to hide a process's memory and descriptors from the watchdog."""
        self._add_rule(
            PRCTL,
            _encode(_LOAD, _ARGUMENTS[0]),
            _encode(_EQUAL, PR_SET_DUMPABLE, 0, 3),
            _encode(_LOAD, _ARGUMENTS[1]),
            _encode(_EQUAL, 0, 0, 1),
            _encode_refusal(errno.EPERM),
            _encode(_RETURN, _ALLOW),
        )

    def ignore_buffer_sizes(self) -> None:
        """Keep the default size of every socket's buffers, by which the watchdog counts them."""
        options = [
            step
            for option in BUFFER_OPTIONS
            for step in (_encode(_EQUAL, option, 0, 1), _encode_refusal(0))
        ]
        self._add_rule(
            SETSOCKOPT,
            _encode(_LOAD, _ARGUMENTS[1]),
            _encode(_EQUAL, SOL_SOCKET, 1, 0),
            _encode(_RETURN, _ALLOW),
            _encode(_LOAD, _ARGUMENTS[2]),
            *options,
            _encode(_RETURN, _ALLOW),
        )

    def allow_families(self, families: tuple[int, ...], allow_netlink: bool) -> None:  # noqa: FBT001
        """Allow these socket families and refuse all others, and all protocols but TCP and UDP.

        libzmq aborts when AF_NETLINK fails with any error except EOPNOTSUPP and EINVAL.
        """
        protocols = [
            step
            for protocol in IP_PROTOCOLS
            for step in (_encode(_EQUAL, protocol, 0, 1), _encode(_RETURN, _ALLOW))
        ]
        protocols = [_encode(_LOAD, _ARGUMENTS[2]), *protocols]
        protocols.append(_encode_refusal(errno.EPROTONOSUPPORT))
        body = [_encode(_LOAD, _ARGUMENTS[0])]
        for family in families:
            allowed = [_encode(_RETURN, _ALLOW)] if family == AF_UNIX else protocols
            body += [_encode(_EQUAL, family, 0, len(allowed)), *allowed]
        if allow_netlink:  # NETLINK_ROUTE only
            body += [
                _encode(_EQUAL, AF_NETLINK, 0, 4),
                _encode(_LOAD, _ARGUMENTS[2]),
                _encode(_EQUAL, 0, 0, 1),
                _encode(_RETURN, _ALLOW),
                _encode_refusal(errno.EOPNOTSUPP),
            ]
        else:
            body += [_encode(_EQUAL, AF_NETLINK, 0, 1), _encode_refusal(errno.EOPNOTSUPP)]
        self._add_rule(SOCKET, *body, _encode_refusal(errno.EAFNOSUPPORT))

    def refuse_terminal_input(self) -> None:
        self._add_rule(
            IOCTL,
            _encode(_LOAD, _ARGUMENTS[1]),
            _encode(_EQUAL, TIOCSTI, 2, 0),
            _encode(_EQUAL, TIOCSETD, 1, 0),  # loads line disciplines, which no session needs
            _encode(_EQUAL, TIOCLINUX, 0, 1),
            _encode_refusal(errno.EPERM),
            _encode(_RETURN, _ALLOW),
        )

    def allow_stream_pairs(self) -> None:
        self._add_rule(
            SOCKETPAIR,
            _encode(_LOAD, _ARGUMENTS[1]),
            _encode(_AND, 0xF),
            _encode(_EQUAL, 1, 1, 0),
            _encode_refusal(errno.EACCES),
            _encode(_RETURN, _ALLOW),
        )

    def _add_rule(self, numbers: tuple[int | None, int | None], *body: bytes) -> None:
        call = numbers[self._column]
        if call is not None:
            self._instructions += [_encode(_EQUAL, call, 0, len(body)), *body]

    def finish(self) -> bytes:
        return b"".join([*self._instructions, _encode(_RETURN, _ALLOW)])
