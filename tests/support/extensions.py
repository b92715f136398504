"""Compiled modules that do something while they are imported, made where there is a C compiler."""

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")
NO_COMPILER = "compiled modules are made by the C compiler `cc`, which this machine does not have"

# The part of Python's stable binary interface that a module takes, so that no header is needed.
_MODULE = """
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <fcntl.h>

struct definition {
    long references; void *type; void *init; long index; void *copy;
    const char *name; const char *doc; long size; void *methods; void *slots; void *traverse; void *clear; void *free;
};
extern void *PyModule_Create2(struct definition *, int);
static struct definition definition = {1, 0, 0, 0, 0, "%(name)s", 0, -1, 0, 0, 0, 0, 0};

static void *waits(void *given) { for (;;) pause(); return given; }
static void opens(void) { open("/dev/null", O_RDONLY); }
static void starts(void) { pthread_t thread; pthread_create(&thread, 0, waits, 0); }

void *PyInit_%(name)s(void) {
    %(body)s
    return PyModule_Create2(&definition, 1013);
}
"""
BODIES = {
    "is kind": "(void)starts;",
    "segfaults": "*(volatile int *)0 = 1;",
    "aborts": "abort();",
    "exits": "_exit(0);",
    "overflows": "*(volatile char *)__builtin_alloca(64 << 20) = 1;",
    "spins": "for (volatile int one = 0;; one = one) {}",
    "closes": "for (int one = 3; one < 256; one++) close(one);",
    "replaces": "{ int pair[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, pair); dup2(pair[0], 3); }",
    "starts a thread": "starts();",
    "starts many threads": "for (int one = 0; one < 20; one++) starts();",
    "opens a socket": "socket(AF_INET, SOCK_STREAM, 0);",
    "opens files": 'for (int one = 0; one < 10; one++) open("/dev/null", O_RDONLY);',
    "opens a socket in the place of a file": "close(0); socket(AF_INET, SOCK_STREAM, 0);",
    "shares memory": "*(char *)mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) = 1;",
    "sets a timer": "{ struct itimerval soon = {{0, 0}, {1000, 0}}; setitimer(ITIMER_VIRTUAL, &soon, 0); }",
    "starts a thread after a fork": "pthread_atfork(0, starts, 0);",
    "ends the process that it was imported in after a fork": "pthread_atfork(0, abort, 0);",
    "opens a file after a fork": "pthread_atfork(0, opens, 0);",
}


def module_text(name: str, what: str) -> str:
    """Return the C of a module of this name; `what` is one of `BODIES`."""
    return _MODULE % {"name": name, "body": BODIES[what]}


def extension(folder: Path, name: str, what: str) -> Path:
    """Compile such a module into a folder."""
    assert COMPILER is not None, NO_COMPILER
    path = folder / f"{name}.abi3.so"
    command = [COMPILER, "-shared", "-fPIC", "-w", "-O1", "-pthread", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=module_text(name, what).encode(), check=True, capture_output=True)
    path.chmod(0o644)
    return path
