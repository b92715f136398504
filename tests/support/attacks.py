"""Hostile workflows, by what they are after. `main` returns what it got hold of; what raises OSError was stopped.

`through` is of `tests.support.attacked`, as is `aims`: what there is to get hold of.
"""

# ruff: noqa: E501 - one attempt, one line

FILES = """
@workflow
def main(aims: dict):
    secrets = ["/etc/shadow", "/root/.profile", aims["file"], aims["other_bundle"], "/var/lib", "/home",
               "/etc/resolv.conf", "/proc/sys/kernel/core_pattern", "/proc/kallsyms", "/proc/sysrq-trigger", "/sys", "/dev/vda"]
    return through({path: (lambda path=path: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)) for path in secrets})
"""

SCRATCH = """
@workflow
def main(aims: dict):
    places = [f"/proc/{aims['sibling']}/cwd/kept", f"/proc/{aims['sibling']}/root/scratch/kept", aims["folder"] + "/executor/scratch"]
    places += [os.path.join(folder, "kept") for folder in ("/scratch", "/tmp", os.getcwd())]
    def look(path):
        if os.path.isdir(path): os.listdir(path)
        elif "sibling" not in open(path).read(): raise OSError
    return through({path: (lambda path=path: look(path)) for path in places})
"""

WRITES = """
@workflow
def main(aims: dict):
    here = os.path.dirname(os.path.dirname(__file__))
    folders = ["/", "/usr", "/usr/bin", "/etc", "/var/tmp", "/dev", "/proc/self", "/run", "/home", here, here + "/flows",
               aims["folder"], os.path.dirname(sys.executable), os.path.dirname(os.__file__), "/workspace", "/packages"]
    def write(folder):
        if os.path.realpath(folder) == "/scratch": raise OSError  # another name of what it may write to
        with open(folder + "/written", "w") as file: file.write("x")
    files = [__file__, "/etc/hosts", "/etc/passwd", "/proc/self/oom_score_adj", "/etc/resolv.conf", aims["file"]]
    return through({one: (lambda one=one: write(one)) for one in folders}
                   | {one: (lambda one=one: open(one, "r+").write("x")) for one in files})
"""

MOUNTS = """
@workflow
def main(aims: dict):
    try: lines = open("/proc/self/mountinfo").read().splitlines()
    except OSError: return None
    return [line.split()[4] for line in lines if "rw" in line.split()[5].split(",")]
"""

EXECUTABLE = """
@workflow
def main(aims: dict):
    return through({path: (lambda path=path: open(path, "r+b").close()) for path in ("/proc/self/exe", sys.executable, os.__file__)})
"""

ENVIRONMENT = """
@workflow
def main(aims: dict):
    import glob
    secrets = []
    for path in [*glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), *(f"/proc/{aims[who]}/environ" for who in ("pid", "sibling", "zygote"))]:
        try: text = open(path, "rb").read()
        except OSError: continue
        if b"secret" in text: secrets.append(path)
    return secrets + [value for value in os.environ.values() if "secret" in value] + [name for name in os.environ if name == "LD_PRELOAD"]
"""

MEMORY = """
@workflow
def main(aims: dict):
    def vm_read(pid):
        buffer = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        syscall(310, pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
    found = []
    for who in ("pid", "sibling", "zygote"):
        pid = aims[who]
        found += [f"{who} {one}" for one in through({
            "mem": lambda: open(f"/proc/{pid}/mem", "rb"), "maps": lambda: open(f"/proc/{pid}/maps").read(),
            "fd": lambda: os.listdir(f"/proc/{pid}/fd"), "root": lambda: os.listdir(f"/proc/{pid}/root"),
            "ptrace": lambda: syscall(101, 0x4206, pid, 0, 0), "process_vm_readv": lambda: vm_read(pid),
            "pidfd_getfd": lambda: syscall(438, os.pidfd_open(pid), 3, 0),
        })]
    return found
"""

DESCRIPTORS = """
@workflow
def main(aims: dict):
    kinds = {}
    for number in range(3, 256):
        try: kinds[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError: continue
    return [kind for kind in kinds.values() if not kind.startswith(("socket:", "anon_inode:"))]
"""

KILLS = """
import signal
@workflow
def main(aims: dict):
    found = through({who: (lambda pid=aims[who]: os.kill(pid, signal.SIGKILL)) for who in ("pid", "sibling", "zygote")})
    found += through({f"group of {who}": (lambda pid=aims[who]: os.killpg(pid, signal.SIGKILL)) for who in ("pid", "sibling", "zygote")})
    found += through({f"limit of {who}": (lambda pid=aims[who]: __import__("resource").prlimit(pid, 7, (0, 0))) for who in ("sibling", "zygote")})
    found += through({f"pidfd of {who}": (lambda pid=aims[who]: signal.pidfd_send_signal(os.pidfd_open(pid), 9)) for who in ("pid", "sibling", "zygote")})
    try: os.kill(-1, 0)
    except OSError: pass
    return found
"""

TCP = """
@workflow
def main(aims: dict):
    def connect(family, *address):
        with socket.socket(family) as one:
            one.settimeout(0.5)
            one.connect(address)
    def fast_open():
        with socket.socket() as one: one.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", aims["port"]))
    def multipath():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as one: one.connect(("127.0.0.1", aims["port"]))
    def listen():
        with socket.create_server(("127.0.0.1", 8080)): pass
    return through({
        "loopback": lambda: connect(socket.AF_INET, "127.0.0.1", aims["port"]), "v6": lambda: connect(socket.AF_INET6, "::1", aims["port"]),
        "metadata": lambda: connect(socket.AF_INET, "169.254.169.254", 80), "outside": lambda: connect(socket.AF_INET, "1.1.1.1", 443),
        "mapped": lambda: connect(socket.AF_INET6, "::ffff:127.0.0.1", aims["port"]), "fast open": fast_open, "multipath": multipath,
        "listening": listen,
    })
"""

DATAGRAMS = """
@workflow
def main(aims: dict):
    kinds = {"udp": (2, 2, 0), "udp6": (10, 2, 0), "icmp": (2, 2, 1), "raw": (2, 3, 1), "packet": (17, 3, 0), "netlink": (16, 3, 0),
             "vsock": (40, 1, 0), "alg": (38, 5, 0), "bluetooth": (31, 3, 0), "xdp": (44, 3, 0), "sctp": (2, 1, 132)}
    return through({name: (lambda kind=kind: socket.socket(*kind).close()) for name, kind in kinds.items()})
"""

UNIX = """
@workflow
def main(aims: dict):
    def connect(address):
        with socket.socket(socket.AF_UNIX) as one: one.connect(address)
    return through({repr(address): (lambda address=address: connect(address)) for address in aims["sockets"]})
"""

KERNEL = """
@workflow
def main(aims: dict):
    calls = {"mount": (165, b"none", b"/tmp", b"tmpfs", 0, None), "umount": (166, b"/", 2), "move_mount": (429, -100, b"/", -100, b"/tmp", 0),
             "open_tree": (428, -100, b"/", 1), "fsopen": (430, b"tmpfs", 0), "pivot_root": (155, b".", b"."), "chroot": (161, b"/"),
             "bpf": (321, 0, None, 0), "perf": (298, None, 0, 0, 0, 0), "io_uring": (425, 8, ctypes.create_string_buffer(120)),
             "userfaultfd": (323, 0), "keyctl": (250, 0, -3, 1), "add_key": (248, b"user", b"x", b"y", 1, -3), "memfd": (319, b"x", 0),
             "memfd_secret": (447, 0), "unshare user": (272, 0x10000000), "unshare mount": (272, 0x20000), "setns": (308, 0, 0),
             "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0), "clone net": (56, 0x40000000 | 17, 0, 0, 0, 0), "module": (175, None, 0, b""),
             "kexec": (246, 0, 0, None, 0), "by handle": (304, -100, ctypes.create_string_buffer(32), 0), "personality": (135, 0x0040000),
             "shmget": (29, 1, 4096, 0o1600), "msgget": (68, 1, 0o1600), "mq_open": (240, b"x", 0o102, 0o600, None), "hostname": (170, b"x", 1),
             "clock": (227, 0, ctypes.create_string_buffer(16)), "swapon": (167, b"/", 0), "quota": (179, 0, None, 0, None), "acct": (163, b"/"),
             "syslog": (103, 3, ctypes.create_string_buffer(8), 8), "iopl": (172, 3), "process_madvise": (440, 0, None, 0, 0, 0),
             "seccomp": (317, 1, 0, None), "landlock": (444, None, 0, 1), "modify_ldt": (154, 0, None, 0), "fanotify": (300, 0, 0)}
    def refused(arguments):
        try: syscall(*arguments)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS): raise
            return error.errno  # the call itself was let through
    return through({name: (lambda one=one: refused(one)) for name, one in calls.items()})
"""

CLONE3 = "\n@workflow\ndef main(aims: dict):\n    try: syscall(435, None, 0)\n    except OSError as error: return error.errno\n"

X32 = "\n@workflow\ndef main(aims: dict): syscall(0x40000000 + 39)\n"

INT80 = """
import mmap
@workflow
def main(aims: dict):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20; int 0x80; ret
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""

TERMINAL = """
import fcntl
@workflow
def main(aims: dict):
    found = []
    for request in (0x5412, 0x541C):
        try: fcntl.ioctl(1, request, b"x")
        except OSError as error: found.append(error.errno)
    return found
"""

RIGHTS = """
import resource
@workflow
def main(aims: dict):
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    raised = through({"files": lambda: _raise(resource.RLIMIT_NOFILE), "memory": lambda: _raise(resource.RLIMIT_AS), "root": lambda: os.setuid(0)})
    return [*[int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")], status["NoNewPrivs"].strip(), status["Seccomp"].strip(), raised]
def _raise(what):
    try: resource.setrlimit(what, (1 << 40, 1 << 40))
    except ValueError as error: raise OSError from error
"""

FORKS = """
@workflow
def main(aims: dict):
    made = 0
    try:
        while made < 1000:
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            made += 1
    except OSError: pass
    return made
"""

AFTER_FORKS = (
    "\nimport threading\n@workflow\ndef main(aims: dict):\n    one = threading.Thread(target=int); one.start(); one.join()\n"
)

HEAP = "\n@workflow\ndef main(aims: dict):\n    kept = []\n    while True: kept.append(bytearray(16 << 20))\n"

DISK = """
@workflow
def main(aims: dict):
    written = 0
    for folder in ("/dev/shm", "/tmp", "/var/tmp", os.getcwd()):
        try:
            with open(f"{folder}/fill{written}", "wb", buffering=0) as file:
                for _ in range(1000): written += file.write(bytes(1 << 20))
        except OSError: continue
    return written
"""

INODES = """
@workflow
def main(aims: dict):
    made = 0
    try:
        while made < 200_000:
            os.mkdir(f"d{made}")
            made += 1
    except OSError: pass
    return made
"""

STORE = """
@workflow
def main(aims: dict):
    def names(folder):
        try: return os.listdir(folder)
        except OSError: return []
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [name for folder in ("/.code", here + "/..", aims["folder"], aims["folder"] + "/executor") for name in names(folder)
            if "bundle" in name or "scratch" in name and folder != here + "/.."]
"""

POISON = """
import builtins, gc, json, signal, threading
class Forever:
    def __del__(self): Forever.kept = self
@workflow
def main(aims: dict):
    builtins.sorted = lambda _: 99
    json.dumps = json.loads = None
    sys.modules["secrets"] = None
    sys.path.insert(0, "/scratch")
    os.environ["POISON"] = "left"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setrecursionlimit(60)
    gc.poison = Forever()
    for folder in ("/scratch", "/tmp", "/dev/shm", os.getcwd()):
        try: open(folder + "/sitecustomize.py", "w").write("raise SystemExit")
        except OSError: continue
    threading.Thread(target=lambda: time.sleep(60)).start()
    import atexit; atexit.register(print, "poison")
    return True
"""

CLEAN = """
import builtins, gc, json, signal, threading
@workflow
def main(aims: dict):
    import secrets
    return [sorted("ba"), json.loads(json.dumps([1])), "/scratch" in sys.path, os.environ.get("POISON"), hasattr(gc, "poison"),
            sys.getrecursionlimit() > 500, threading.active_count(), [one for one in gc.get_objects() if type(one).__name__ == "Forever"],
            [name for folder in ("/scratch", "/tmp", "/dev/shm", os.getcwd()) if os.path.isdir(folder)
             for name in _listed(folder) if name.endswith(".py")]]
def _listed(folder):
    try: return os.listdir(folder)
    except OSError: return []
"""

PROBE = """
from millrace._runtime.probe import holes
@workflow
def main(aims: dict): return [holes(aims), holes(aims | {"file": "/dev/null"})]
"""

BUILD = """
@workflow
def main(aims: dict):
    return [name for name in ("sitecustomize", "usercustomize", "site") if name in sys.modules]
"""

ATTACKS = {name.lower(): text for name, text in list(globals().items()) if name.isupper() and isinstance(text, str)}
"""By name."""
