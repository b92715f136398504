"""Real bare repositories behind a real HTTP server: dulwich's own, so that no git need be installed, or git's `http-backend`."""

from __future__ import annotations

import base64
import io
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain

TOKEN = "a token of the remote"
GIT = shutil.which("git")
# A content, or a content with a mode.
Files = dict[str, "bytes | tuple[int, bytes]"]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Remote:
    """A bare repository with one branch, changed as other people do."""

    def __init__(self, folder: Path, *, branch: str = "main") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.repo = Repo.init_bare(folder)
        self.branch = branch
        self.url = ""

    @property
    def ref(self) -> Ref:
        return Ref(b"refs/heads/" + self.branch.encode())

    @property
    def head(self) -> str | None:
        found = self.repo.refs.as_dict().get(self.ref)
        return None if found is None else found.decode()

    def commit(self, files: Files, message: str = "by somebody else", *, parents: list[str] | None = None) -> str:
        """Make a commit with exactly these files the branch's newest one."""
        store = self.repo.object_store
        tree = self._tree({path: (0o100644, one) if isinstance(one, bytes) else one for path, one in files.items()})
        commit = Commit()
        commit.tree = tree
        before = [] if self.head is None else [self.head]
        commit.parents = [ObjectID(one.encode()) for one in (before if parents is None else parents)]
        commit.author = commit.committer = b"Somebody Else <else@example.org>"
        commit.author_time = commit.commit_time = 1_700_000_000
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = message.encode()
        store.add_object(commit)
        self.repo.refs[self.ref] = commit.id
        return commit.id.decode()

    def _tree(self, files: dict[str, tuple[int, bytes]]) -> ObjectID:
        tree = Tree()
        folders: dict[str, dict[str, tuple[int, bytes]]] = {}
        for path, (mode, content) in files.items():
            first, _, rest = path.partition("/")
            if rest:
                folders.setdefault(first, {})[rest] = (mode, content)
                continue
            if mode == 0o160000:
                tree.add(first.encode("utf-8", "surrogateescape"), mode, ObjectID(content))
                continue
            blob = Blob.from_string(content)
            self.repo.object_store.add_object(blob)
            tree.add(first.encode("utf-8", "surrogateescape"), mode, blob.id)
        for name, below in folders.items():
            tree.add(name.encode(), 0o040000, self._tree(below))
        self.repo.object_store.add_object(tree)
        return tree.id

    def files(self) -> dict[str, bytes]:
        """Return the newest content of each file."""
        return {path: content for path, (_, content) in self.entries().items()}

    def entries(self) -> dict[str, tuple[int, bytes]]:
        """Return the newest content of each file with its mode."""
        head = self.head
        if head is None:
            return {}
        store = self.repo.object_store
        found: dict[str, tuple[int, bytes]] = {}
        left = [("", store[ObjectID(head.encode())].tree)]
        while left:
            prefix, oid = left.pop()
            for name, mode, child in store[oid].iteritems():
                path = prefix + name.decode("utf-8", "surrogateescape")
                if mode == 0o040000:
                    left.append((path + "/", child))
                elif mode != 0o160000:
                    found[path] = (mode, store[child].data)
        return found

    def close(self) -> None:
        """Let go of its files."""
        self.repo.close()

    def log(self) -> list[Commit]:
        """Return the commits of the branch, the newest one first."""
        return [one.commit for one in self.repo.get_walker([ObjectID((self.head or "").encode())])] if self.head else []


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def get_stderr(self) -> Any:
        return io.StringIO()  # clients that hang up are what some tests are about

    def log_message(self, *_: Any) -> None:
        pass


class Host:
    """A server of repositories, each as `/<folder>`; more can be added. `before` is called with the path of each request."""

    def __init__(self, token: str | None, before: Callable[[str], None] | None) -> None:
        self._token = token
        self._before = before
        self._remotes: dict[str, Any] = {}
        self._application = make_wsgi_chain(DictBackend(self._remotes))
        self.url = ""

    def add(self, remote: Remote) -> Remote:
        self._remotes[f"/{remote.folder.name}"] = remote.repo
        remote.url = f"{self.url}/{remote.folder.name}"
        return remote

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self._before is not None:
            self._before(environ["PATH_INFO"] + "?" + environ.get("QUERY_STRING", ""))
        if self._token is not None and not _has(environ, self._token):
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Type", "text/plain")])
            return [b"no\n"]
        found: Iterable[bytes] = self._application(environ, start)
        return found

    def close(self) -> None:
        for one in self._remotes.values():
            one.close()


@contextmanager
def hosting(*, token: str | None = TOKEN, before: Callable[[str], None] | None = None, at: str = "127.0.0.1") -> Iterator[Host]:
    """Run a host for the block."""
    host = Host(token, before)
    try:
        with serving(host, at=at) as host.url:
            yield host
    finally:
        host.close()


@contextmanager
def served(*remotes: Remote, token: str | None = TOKEN, at: str = "127.0.0.1") -> Iterator[str]:
    """Serve remotes for the block; each has its `url` then."""
    with hosting(token=token, at=at) as host:
        for one in remotes:
            host.add(one)
        yield host.url


@contextmanager
def serving(application: Application, *, at: str = "127.0.0.1") -> Iterator[str]:
    """Serve any application on a free port; gives its address."""
    server = make_server(at, 0, application, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{at}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def by_git(root: Path, *, token: str | None = TOKEN) -> Application:
    """Return an application that serves the repositories below a folder by git itself."""
    assert GIT is not None

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if token is not None and not _has(environ, token):
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Type", "text/plain")])
            return [b"no\n"]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "http.receivepack",
            "GIT_CONFIG_VALUE_0": "true",
            "GIT_CONFIG_KEY_1": "safe.directory",
            "GIT_CONFIG_VALUE_1": "*",
            "REMOTE_USER": "test",
            "REMOTE_ADDR": "127.0.0.1",
            **{name: value for name, value in environ.items() if isinstance(value, str) and name.startswith(("HTTP_", "CONTENT_"))},
            **{name: environ.get(name, "") for name in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING")},
        }
        variables["GIT_PROTOCOL"] = environ.get("HTTP_GIT_PROTOCOL", "")
        done = subprocess.run([GIT, "http-backend"], input=body, env=variables, capture_output=True, check=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        start(status, [(name, value) for name, value in fields if name != "Status"])
        return [answer]

    return application


def _has(environ: dict[str, Any], token: str) -> bool:
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return scheme == "Basic" and base64.b64decode(value).decode().partition(":")[2] == token
