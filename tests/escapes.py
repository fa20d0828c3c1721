"""Programs that try to escape from the sandbox: python -m tests.escapes runs them and prints how each ended.

A program that reaches its end has escaped. Only the standard library, because another user's Python runs it, too.
"""

import json
import os
import platform
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from near.evaluation.sandbox import NO_TESTS, Suite, run, seccomp

SECRET = "near-tests-secret"
NONE = r"FileNotFoundError"
READ_ONLY = r"Read-only file system|Permission denied"
DENIED = r"Operation not permitted|Resource temporarily unavailable"
LATE = r"not done after"
ENDED = r"ended before its end|SystemExit"
WRONG = r"AssertionError"

SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def system_call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
# name: (program, how it ends); {name} is replaced by what `attempts` puts there, all before the first is run
ESCAPES = {
    # what others keep to themselves
    "parent's environment": ("import os; open(f'/proc/{os.getppid()}/environ').read()", NONE),
    "first process's environment": ("open('/proc/1/environ').read()", NONE),
    "starter's environment": ("open('/proc/{host}/environ').read()", NONE),
    "own environment in /proc": ("open('/proc/self/environ').read()", NONE),
    "own environment": ("import os; assert '{secret}' in str(os.environ) or len(os.environ) > 12", WRONG),
    "list of processes": ("import os; os.listdir('/proc')", NONE),
    "memory in /proc": ("open('/proc/self/mem', 'rb+')", NONE),
    "passwords": ("open('/etc/passwd').read()", NONE),
    "any file of /etc": ("import os; os.listdir('/etc')", NONE),
    "home": ("import os; assert set(os.listdir('{home}')) - {'.pyenv', '.local'}", NONE + "|" + WRONG),
    "keys": ("import os; os.listdir('{home}/.ssh')", NONE),
    "caches": ("import os; os.listdir('{home}/.cache')", NONE),
    "project": ("open('{repo}/pyproject.toml').read()", NONE),
    "a file whose path is known": ("open('{marker}').read()", NONE),
    "files of others in /tmp": (
        "import os; assert [n for n in os.listdir('/tmp') if n != 'program.py' and not os.path.isdir(n)]",
        WRONG,
    ),
    "a link to a file": ("import os; os.symlink('{marker}', 'x'); open('x').read()", NONE),
    "a link to a folder": ("import os; os.symlink('/', 'x'); open('x/etc/passwd').read()", NONE),
    "up from the folder": ("open('../../../../../../../../etc/passwd').read()", NONE),
    "search of all files": (
        "import os\nfor folder, folders, files in os.walk('/'):\n    assert '{marker_name}' not in files, 'escaped'\n"
        "    if folder.count('/') > 3: folders.clear()\nraise AssertionError('none')",
        "AssertionError: none",
    ),
    "inherited files": (
        "import os\nfor fd in range(200):\n    try:\n        if os.path.isabs(os.read(fd, 1).decode()): pass\n"
        "    except (OSError, BlockingIOError): continue\n    assert fd > 2, fd\n    raise AssertionError",
        WRONG,
    ),
    # writing
    "new file at the root": ("open('/x', 'w')", READ_ONLY),
    "new file in /dev": ("open('/dev/x', 'w')", READ_ONLY),
    "shared memory files": ("open('/dev/shm/x', 'w')", NONE),
    "change of Python": ("import json; open(json.__file__, 'a')", READ_ONLY),
    "removal of Python": ("import json, os; os.remove(json.__file__)", READ_ONLY),
    "new module for Python": ("import os; open(os.path.dirname(os.__file__) + '/x.py', 'w')", READ_ONLY),
    "change of modes": (
        "import os; os.chmod(os.__file__, 0o777); assert os.stat(os.__file__).st_mode & 0o777 == 0o777",
        WRONG,
    ),
    "change of a device's mode": (
        "import os; n = '/dev/null'; os.chmod(n, 0o600); os.fchmod(0, 0o600)\n"
        "assert os.stat(n).st_mode & 0o777 == 0o600",
        WRONG,
    ),
    "change of a device's owner": (
        "import os; n = '/dev/null'; os.chown(n, 1, -1); os.fchown(0, -1, 1); os.lchown(n, 1, 1)\n"
        "assert 1 in (os.stat(n).st_uid, os.stat(n).st_gid)",
        WRONG,
    ),
    "attribute of a device": ("import os; os.setxattr('/dev/null', 'user.x', b'')", "not supported"),
    "removal of a device": ("import os; os.remove('/dev/null')", READ_ONLY + "|busy"),
    "change of a library": ("import glob; open(glob.glob('/usr/lib/*/libc.so.6')[0], 'r+b')", READ_ONLY),
    "change of the worker": ("open('/inside/worker.py', 'a')", READ_ONLY),
    "hard link out of Python": ("import os; os.link(os.__file__, 'x')", "cross-device|Operation not permitted"),
    "file of the starter": ("open('{marker}', 'w')", NONE),
    "one big file": ("f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", "File too large|No space"),
    "many files that fill the disk": (
        "for i in range(99):\n    open(f'x{i}', 'wb').write(bytes(1 << 20))",
        "No space left",
    ),
    "many files without content": (
        "import time\nfor i in range(1 << 30):\n    open(f'x{i}', 'w').close()",
        "made more than 4096 files",
    ),
    "device node": ("import os; os.mknod('x', 0o20666, os.makedev(1, 3))", DENIED),
    # resources
    "fork bomb": ("import os\nwhile True: os.fork()", DENIED),
    "second process": ("import os; os.fork()", DENIED),
    "vfork": ("import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", DENIED),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()", DENIED),
    "other session": ("import subprocess, sys; subprocess.Popen([sys.executable], start_new_session=True)", DENIED),
    "shell": ("import os; os.execv('/bin/sh', ['sh', '-c', 'true'])", NONE),
    "thread bomb": (
        "import threading, time\nthreading.stack_size(32768)\n"
        "while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        "can't start new thread|more than 256 threads",
    ),
    "memory": ("x = bytearray(3 << 30)", "MemoryError"),
    "memory in pieces": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
    "mapped memory": ("import mmap\nx = mmap.mmap(-1, 3 << 30)", "OSError|MemoryError|ValueError"),
    "memory of threads": (
        "import threading\nhog = lambda: globals().setdefault(threading.get_ident(), bytearray(400 << 20))\n"
        "ts = [threading.Thread(target=hog) for _ in range(8)]\n[t.start() for t in ts]\n[t.join() for t in ts]\n"
        "assert sum(isinstance(x, bytearray) for x in globals().values()) > 2",
        f"{WRONG}|can't start new thread|{LATE}",  # late: a thread without memory may hang instead of ending
    ),
    "more than the limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "not allowed to raise|current limit exceeds|Operation not permitted",
    ),
    "endless loop": ("while True: pass", LATE),
    "endless loops in threads": (
        "import threading\ndef f():\n    while True: pass\nfor _ in range(4): threading.Thread(target=f).start()\nf()",
        LATE,
    ),
    "sleep": ("import time; time.sleep(60)", LATE),
    "deaf to signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        LATE,
    ),
    "endless output": ("while True: print('x' * (1 << 20))", LATE),
    "endless output past Python": ("import os\nwhile True: os.write(1, bytes(1 << 20))", LATE),
    "endless errors": ("import sys\nwhile True: sys.stderr.write('x' * (1 << 20))", LATE),
    "stack without a bound": (
        "import sys; sys.setrecursionlimit(1 << 30)\nclass A:\n    def __getattr__(self, n): return getattr(self, n)\n"
        "A().x",
        ENDED + "|MemoryError|RecursionError",
    ),
    "a wild pointer": ("import ctypes; ctypes.string_at(1)", ENDED),
    # networks
    "TCP to this machine": ("import socket; socket.create_connection(('127.0.0.1', {port}), 1)", DENIED),
    "TCP elsewhere": ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", DENIED),
    "UDP": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))", DENIED),
    "names": ("import socket; socket.getaddrinfo('example.org', 80)", "gaierror|PermissionError"),
    "own server": ("import socket; socket.create_server(('127.0.0.1', 0))", DENIED),
    "socket in the file system": ("import socket; socket.socket(socket.AF_UNIX).connect('{socket}')", DENIED),
    "abstract socket": ("import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')", DENIED),
    "system's bus": ("import socket; socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')", DENIED),
    "netlink": ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", DENIED),
    "raw packets": ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", DENIED),
    # other processes and the kernel
    "kill of the starter": ("import os; os.kill({host}, 9)", "ProcessLookupError"),
    "kill of all": ("import os; os.kill(-1, 0)", "ProcessLookupError"),
    "kill of a group": ("import os; os.killpg({host}, 9)", "ProcessLookupError"),
    "root": ("import os; os.setuid(0)", "Invalid argument|Operation not permitted"),
    "root's group": ("import os; os.setgroups([0])", "Operation not permitted"),
    "chroot": ("import os; os.chroot('/tmp')", DENIED),
    "capabilities": (
        SYSCALL
        + "data = (ctypes.c_uint32 * 6)()\nassert libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), data) == 0\n"
        "assert any(data), 'none'",
        "AssertionError: none",
    ),
    "capabilities of later programs": (
        SYSCALL + "assert any(libc.prctl(23, n, 0, 0, 0) == 1 for n in range(41))",
        WRONG,
    ),
    "new privileges": (SYSCALL + "assert libc.prctl(39, 0, 0, 0, 0) == 0", WRONG),
    "terminal's input": ("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')", "Inappropriate ioctl"),
    "terminal": ("open('/dev/tty')", NONE),
    "name of the machine": ("import socket; socket.sethostname('x')", DENIED),
    "priority": ("import os; os.nice(-5)", "Operation not permitted|Permission denied"),
    "system calls": (
        SYSCALL + "done = []\nfor name, number in {calls}.items():\n"
        "    try: system_call(number, 0, 0, 0, 0, 0)\n"
        "    except OSError as error:\n        if error.errno in (1, 38): continue\n"
        "    done.append(name)\nassert done, 'none'",
        "AssertionError: none",
    ),
    "system call of the 32-bit kernel": (
        SYSCALL + "import mmap, platform\nif platform.machine() != 'x86_64': os._exit(31)\n"
        "m = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n"  # getpid by int 0x80
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        ENDED + ".*31",
    ),
    "system call of x32": (
        SYSCALL + "import platform\nif platform.machine() != 'x86_64': os._exit(31)\nsystem_call(0x40000000 + 39)",
        ENDED + ".*31",
    ),
    # odd programs
    "no text": ("x = '\ud800'", "SyntaxError|UnicodeDecodeError"),
    "zero bytes": ("x = 1\0", "SyntaxError|ValueError"),
    "no Python": ("def f(:", "SyntaxError"),
    "exit with status 0": ("import sys; sys.exit(0)", ENDED),
    "exit past Python": ("import os; os._exit(0)", ENDED),
    "exit at once": ("raise SystemExit", ENDED),
    "own signal": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ENDED),
}
# Programs that would pass a row whose function they do not write: `add` has to be the sum.
TESTS = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert abs(candidate(2.5, 2) - 4.5) < 1e-6
    for a in range(3):
        assert [candidate(a, 1)] == [a + 1]
    assert 9 in [candidate(4, 5)] and not candidate(1, -1)
check(add)
"""
WRONG_ADD = "def add(a, b): return 77\n"
ALL_FILES = "import os\nfor fd in range(64):\n    try: os.write(fd, {0})\n    except OSError: pass\n"
VERDICT = 'b\'ready\\n\' + b\'{"passed": true, "why": ""}\\n\''
PASSED = 'b\'{"passed": true, "why": ""}\''
INTO_THE_TESTS = "exec(%r)" % (ALL_FILES.format(PASSED) + "os._exit(0)")
FORGERIES = {
    "exit 0 in the function": "def add(a, b):\n    import sys; sys.exit(0)",
    "exit past Python in the function": "def add(a, b):\n    import os; os._exit(0)",
    "exit as an error": "def add(a, b): raise SystemExit(0)",
    "interrupt": "def add(a, b): raise KeyboardInterrupt",
    "generator's exit": "def add(a, b): raise GeneratorExit",
    "verdict into all files": ALL_FILES.format(VERDICT) + WRONG_ADD,
    "verdict into all files and exit": ALL_FILES.format(VERDICT) + "os._exit(0)",
    "verdict in the function": "def add(a, b):\n    "
    + ALL_FILES.format(VERDICT).replace("\n", "\n    ")
    + "\n    os._exit(0)",
    "verdict by an exit handler": "import atexit, os\n"
    + f"atexit.register(lambda: os.write(1, {VERDICT}))\n"
    + WRONG_ADD,
    "verdict by a thread": "import os, threading\n"
    + f"threading.Thread(target=lambda: [os.write(f, {VERDICT}) for f in range(64)], daemon=True).start()\n"
    + WRONG_ADD,
    "end file": "for p in ('end', '/tmp/end'): open(p, 'w').write('pass')\n" + WRONG_ADD,
    "equal to all": "class E:\n    def __eq__(self, o): return True\n    __hash__ = None\ndef add(a, b): return E()",
    "equal to all, and a number": "class E(int):\n"
    "    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n    def __lt__(self, o): return True\n"
    "def add(a, b): return E(77)",
    "equal to all, and nearly": "class E:\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n"
    "    def __abs__(self): return 0\n    def __bool__(self): return False\ndef add(a, b): return E()",
    "equal to all, in a list": "class E(list):\n    def __eq__(self, o): return True\ndef add(a, b): return E([77])",
    "metaclass": "class M(type):\n    def __eq__(self, o): return True\n    __hash__ = type.__hash__\n"
    + "class E(metaclass=M): pass\ndef add(a, b): return E",
    "patched builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda *a: []\n"
    + "builtins.AssertionError = type('X', (Exception,), {})\n"
    + WRONG_ADD,
    "own names of builtins": "abs = lambda x: 0\nrange = lambda *a: []\nAssertionError = Exception\n" + WRONG_ADD,
    "own check": "def check(candidate): pass\n" + WRONG_ADD,
    "patched check": "import builtins\nbuiltins.check = check = lambda c: None\n"
    + "import sys\nsys.modules['__main__'].check = check\n"
    + WRONG_ADD,
    "frames": "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals['check'] = lambda c: None\n"
    + "    for o in list(frame.f_locals.values()):\n        if hasattr(o, 'ended'): o.passed = True\n"
    + "    frame = frame.f_back\n"
    + WRONG_ADD,
    "search of the memory": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n"
    + "        if isinstance(o, dict) and 'code' in o and 'entry' in o: o['code'] = ''\n    return 77",
    "tracing": "import sys\ndef trace(frame, *_):\n    frame.f_trace_lines = False\n    return trace\n"
    + "sys.settrace(trace)\n"
    + WRONG_ADD,
    "patched modules": 'import json\njson.dumps = lambda *a, **k: \'{"passed": true, "why": "", "value": null}\'\n'
    + WRONG_ADD,
    "forged frames": ALL_FILES.format("b'{\"value\": null}\\n' * 99") + WRONG_ADD,
    **{
        f"{kind} called in the tests": "import json, os\n"
        + f"code = {INTO_THE_TESTS!r}\n"
        + "message = {'op': 'call', 'args': ["
        + target
        + ", code], 'kwargs': {}}\n"
        + "def add(a, b):\n    data = (json.dumps(message) + chr(10)).encode()\n"
        + "    for fd in range(3, 64):\n        try: os.write(fd, data)\n        except OSError: pass\n    return 77"
        for kind, target in {
            "exec as an error": "['exception', 'exec', 'exec']",
            "eval as an error": "['exception', 'eval', 'eval']",
            "exec as a type": "['builtin', 'exec']",
            "own error of exec": "['exception', 'x', 'exec']",
            "a type": "['builtin', 'type'], 'x', ['tuple', []], ['dict', []]",
            "the worker": "['module', '__main__']",
        }.items()
    },
    "attributes of the tests": "import json, os\ndef add(a, b):\n"
    + "    for fd in range(3, 64):\n        for t in (['builtin', 'list'], ['module', '__main__'], ['yours', 0]):\n"
    + "            m = {'op': 'attr', 'args': [t, 'main'], 'kwargs': {}}\n"
    + "            try: os.write(fd, (json.dumps(m) + chr(10)).encode())\n            except OSError: pass\n"
    + "    return 77",
    "same as the argument": "def add(a, b): return a",
    "kill of the tests": "import os\ndef add(a, b):\n    os.kill(os.getppid(), 9)\n    return 77",
    "never ends": "def add(a, b):\n    while True: pass",
    "huge answer": "def add(a, b): return 'x' * (400 << 20)",
    "endless answer": "def add(a, b):\n    while True: yield 9",
    "deep answer": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "answer that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "huge program": "x = " + "+".join(["1"] * 30000) + "\n" + WRONG_ADD,
}
ENDLESS = ("never ends", "huge answer", "endless answer")


def place(stack: Path) -> dict[str, object]:
    """What programs may look for: a file, and servers that answer."""
    marker = stack / "near-tests-marker"
    marker.write_text(SECRET)
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    names = {"socket": str(stack / "socket"), "abstract": f"near-tests-{os.getpid()}"}
    servers[1].bind(names["socket"])
    servers[2].bind("\0" + names["abstract"])
    for server in servers[1:]:
        server.listen()
    column = list(seccomp.AUDIT_ARCH).index(platform.machine())
    calls = seccomp.FORBIDDEN | seccomp.NOT_THERE
    names["calls"] = {name: numbers[column] for name, numbers in calls.items() if numbers[column] is not None}
    names |= {
        "servers": servers,
        "port": servers[0].getsockname()[1],
        "marker": str(marker),
        "marker_name": marker.name,
    }
    names |= {"repo": str(Path(__file__).resolve().parent.parent), "home": os.path.expanduser("~"), "host": os.getpid()}
    return names | {"secret": SECRET}


def attempts(unsafe: bool = False, only: tuple[str, ...] = ()) -> dict[str, tuple[bool, str]]:
    """How each ended: whether it escaped or forged its pass, and why it did not."""
    os.environ["NEAR_TESTS_TOKEN"] = SECRET
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0)) + 1) as pool:
        known = place(Path(folder))

        def attempt(name: str) -> tuple[bool, str]:
            endless = name in ENDLESS or name in ESCAPES and ESCAPES[name][1] == LATE
            seconds = 1 if endless else 30
            if name in FORGERIES:
                return run(FORGERIES[name], seconds, 512, Suite(TESTS, "add", ("def add(a, b):\n    '''sum'''\n",)))
            program = ESCAPES[name][0]
            for key, value in known.items():
                program = program.replace("{" + key + "}", str(value))
            return run(program, seconds, 512, NO_TESTS, unsafe)

        names = list(only or [*ESCAPES, *FORGERIES])
        return dict(zip(names, map(tuple, pool.map(attempt, names)), strict=True))


if __name__ == "__main__":
    print(json.dumps(attempts()))
