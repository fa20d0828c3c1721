"""The filter of system calls that a graded program runs under: BPF as bwrap's --seccomp reads it.

Namespaces and missing capabilities already forbid most of what stands here; the filter takes the code behind it out of
reach as well. And it makes the limits of a process those of the whole program: it may have threads, but no second
process, and no memory outside its address space (shared segments, memory files).
"""

import errno
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # <linux/audit.h>
CLONE_THREAD = 0x10000  # <linux/sched.h>
X32 = 0x40000000  # bit of the numbers of x86_64's second table
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # <linux/bpf_common.h>
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # <linux/seccomp.h>
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; of the argument the lower half

# name: (x86_64, aarch64), of <asm/unistd.h>
NO_PROCESS = {"fork": (57, None), "vfork": (58, None)}
CLONE = {"clone": (56, 220)}
NOT_THERE = {"clone3": (435, 435)}  # its flags can't be seen; the C library then uses clone
# Where root runs this, a program owns the machine's /dev/null. It is told that these were done.
PRETENDED = {
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
}
NO_ATTRIBUTES = {
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466)},
    **{"file_setattr": (469, 469)},
}
FORBIDDEN = {
    # other processes
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272)},
    **{"pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438)},
    **{"process_madvise": (440, 440)},
    # namespaces, mounts and file handles
    **{"unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40)},
    **{"umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"mknod": (133, None), "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265)},
    **{"fanotify_init": (300, 262), "quotactl": (179, 60), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"acct": (163, 89)},
    # sockets of any family (socketpair, which asyncio needs, stays), and memory that no limit counts
    **{"socket": (41, 198), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190)},
    **{"msgget": (68, 186), "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447)},
    # keys, and doors into the kernel
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280)},
    **{"perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425)},
    **{"io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    # the machine
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104)},
    **{"kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116), "personality": (135, 92)},
    **{"clock_settime": (227, 112), "clock_adjtime": (305, 266), "settimeofday": (164, 170), "adjtimex": (159, 171)},
    **{"sethostname": (170, 161), "setdomainname": (171, 162)},
}
REFUSALS = (
    (FORBIDDEN, errno.EPERM),
    (NO_PROCESS, errno.EAGAIN),
    (NOT_THERE, errno.ENOSYS),
    (PRETENDED, 0),
    (NO_ATTRIBUTES, errno.ENOTSUP),
)


def filter_of(machine: str) -> bytes:
    """The program, an array of struct sock_filter. KeyError for a machine whose numbers are not known here."""
    column = list(AUDIT_ARCH).index(machine)
    code = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, AUDIT_ARCH[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        code += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for calls, error in REFUSALS:
        for numbers in calls.values():
            if numbers[column] is not None:
                code += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ERRNO | error)]
    code += [(EQUAL, 0, 3, CLONE["clone"][column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    code += [(ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, ERRNO | errno.EAGAIN), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
