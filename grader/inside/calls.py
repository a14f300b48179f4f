"""System calls that no submission needs, refused before its first line runs (seccomp).

A backstop: what namespaces leave open. A socket of a virtual machine (AF_VSOCK) belongs to no
network namespace; a process may look into its neighbours by ptrace where no process namespace hides
them; and much of the kernel that nobody here uses had faults before. Linux alone, where libseccomp
is installed; elsewhere nothing is refused, and `lab doctor` says so.
"""

from __future__ import annotations

import ctypes
import errno
import sys

LIBRARY = "libseccomp.so.2"
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # an action, and one to which an errno is added
EQUAL, GREATER, MASKED = 4, 6, 7  # comparisons of an argument
NEW_USER = 0x10000000
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
REFUSED = (
    # other processes' memory, descriptors and calls
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    # parts of the kernel that are a world of their own
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup"),
    *("keyctl", "add_key", "request_key"),
    # file systems and namespaces
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount"),
    *("mount_setattr", "unshare", "setns", "open_by_handle_at", "quotactl", "swapon", "swapoff"),
    # the machine itself
    *("reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname"),
    *("setdomainname", "acct", "vhangup", "iopl", "ioperm", "syslog", "lookup_dcookie"),
)


class _Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    )


def refuse() -> bool:
    """Refuse them to this process and to all that it starts, for good; return whether it worked."""
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(ALLOW))
    if not rules:
        return False
    for name in REFUSED:
        _add(library, rules, name, errno.EPERM)
    # glibc then makes its threads by clone, whose flags can be seen.
    _add(library, rules, "clone3", errno.ENOSYS)
    _add(library, rules, "clone", errno.EPERM, (MASKED, NEW_USER, NEW_USER))
    _add(library, rules, "socket", errno.EAFNOSUPPORT, (GREATER, max(FAMILIES), 0))
    for family in set(range(max(FAMILIES))) - set(FAMILIES):
        _add(library, rules, "socket", errno.EAFNOSUPPORT, (EQUAL, family, 0))
    # libseccomp asks for no_new_privs first: no program gains rights by being executed any more.
    loaded = library.seccomp_load(rules) == 0
    library.seccomp_release(rules)
    return loaded


def _add(
    library: ctypes.CDLL,
    rules: ctypes.c_void_p,
    name: str,
    number: int,
    first: tuple[int, int, int] | None = None,
) -> None:
    """Refuse a call with an errno, if its first argument is so; an unknown call is passed over."""
    call = library.seccomp_syscall_resolve_name(name.encode())
    asked = (_Comparison * 1)(_Comparison(0, *first)) if first else None
    library.seccomp_rule_add_array(rules, REFUSE | number, call, 1 if first else 0, asked)
