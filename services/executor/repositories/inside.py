"""Speaks to a remote repository. Only ever in a child of the sandbox, which is given this file, dulwich and what that needs.

Nothing of a repository is executed or obeyed: there is no working tree, no hook, no filter and no configuration but what a bare
repository begins with. What it answers is an adversary's, since the remote may be one: the supervisor checks it all.
"""

import errno
import hashlib
import importlib
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dulwich.client import GitClient, HttpGitClient, SendPackResult
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository, NotTreeError
from dulwich.ignore import IgnoreFilter, IgnoreFilterManager
from dulwich.object_store import commit_tree_changes, tree_lookup_path
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.pack import pack_objects_to_data
from dulwich.refs import Ref
from dulwich.repo import Repo

HISTORY = 50
"""Commits that are fetched at first: enough to find the last common one of a branch that is looked at now and then."""
MOST_COMMITS = 100_000
MOST_TOLD = 200
TRAILER = b"Millrace-Push: "
_LFS = b"version https://git-lfs.github.com/spec/"
_SPECIAL = {
    stat.S_IFLNK: "it is a symbolic link",
    0o160000: "it is a submodule",
}


class _Refused(Exception):
    """The remote cannot be used; a code for the supervisor, and words."""

    def __init__(self, code: str, words: str) -> None:
        self.code = code
        super().__init__(words)


def done(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Look at a branch, or push to it; answer what was found, or the problem."""
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    # No configuration of the machine's either.
    os.environ.update({"HOME": folder, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull})
    try:
        return {"problem": None} | (_push if job["do"] == "push" else _look)(folder, job)
    except _Refused as error:
        return {"problem": error.code, "words": str(error)[:2000]}
    except NotGitRepository:
        return {"problem": "absent", "words": "there is no repository at this address, or none that this credential may see"}
    except MemoryError:
        return {"problem": "too_large", "words": f"it takes more than {job['memory'] >> 20} MB of memory"}
    except OSError as error:
        is_full = error.errno in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
        return {"problem": "too_large" if is_full else "unreachable", "words": f"{error}"[:2000]}
    except (GitProtocolError, HangupException) as error:
        return {"problem": "unreachable", "words": f"{error}"[:2000] or type(error).__name__}
    except Exception as error:  # of a remote that sends anything but a repository
        if (code := getattr(error, "problem", None)) is not None:
            return {"problem": code, "words": str(error)[:2000]}
        return {"problem": "malformed", "words": f"{type(error).__name__}: {error}"[:2000]}


# -- the ways there ---------------------------------------------------------------------------------------------------------


class _Http(HttpGitClient):
    """Tells what was refused: by the remote, or by the proxy that leads there."""

    def _http_request(self, url: str, headers: Any = None, data: Any = None, raise_for_status: bool = True) -> Any:  # noqa: FBT001, FBT002
        response, read = super()._http_request(url, headers, data, raise_for_status=False)
        if raise_for_status and response.status != 200:
            own = response.headers.get("Proxy-Status", "")
            if own.startswith("millrace;"):
                raise _Refused("egress", own.partition("details=")[2].strip('"'))
            if response.status in (401, 403):
                raise _Refused(
                    "denied", f"the remote answers {response.status}: its credential is missing, wrong or may not do this"
                )
            if response.status == 404:
                raise NotGitRepository
            raise _Refused("unreachable", f"the remote answers {response.status}")
        return response, read


def _client(job: dict[str, Any]) -> tuple[GitClient, str]:
    parts = urlsplit(job["url"])
    if parts.scheme == "ssh":
        # It is large, and not for those who need none.
        shell: tuple[GitClient, str] = importlib.import_module("repository_shell").client_of(job)
        return shell
    client = _Http(
        f"{parts.scheme}://{parts.netloc}",
        username=job["username"],
        password=job["password"],
        timeout=job["patience"],
    )
    return client, parts.path


# -- looking ----------------------------------------------------------------------------------------------------------------


def _look(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    given = _read(folder, "given.json")
    repo = Repo.init_bare(Path(folder, "repository"), mkdir=True)
    head = _fetched(repo, job, HISTORY)
    since, pushes = job["since"], dict.fromkeys(job["pushes"])
    found: bool | None = None
    if head is not None:
        found, cut = _history(repo, head, since, pushes)
        if since is not None and not found and cut:
            # By a look of its own: what was fetched to a depth is not fetched again below it.
            whole = Repo.init_bare(Path(folder, "whole"), mkdir=True)
            if _fetched(whole, job, None) == head:
                found, cut = _history(whole, head, since, pushes)
    entries: list[list[Any]] = []
    refused: dict[str, str] = {}
    if head is not None:
        have = set(given["have"])
        Path(folder, "contents").mkdir()
        for path, mode, oid in _files(repo, head, job["folder"], job["most_entries"]):
            name = _name(path)
            reason = _refusal(path, mode)
            if reason is None:
                content = _blob(repo, oid)
                if len(content) > job["most_file"]:
                    reason = f"it has {len(content)} bytes, and {job['most_file']} are the most"
                elif content.startswith(_LFS) and len(content) < 1024:
                    reason = "it is a pointer to Git LFS, whose content is elsewhere"
                else:
                    digest = hashlib.sha256(content).hexdigest()
                    if digest not in have:
                        have.add(digest)
                        _write(folder, f"contents/{digest}", content)
                    entries.append([name, bool(mode & 0o100), digest, len(content)])
            if reason is not None:
                refused[name] = reason
    tip = None if head is None else _described(repo, head)
    answer = {"entries": entries, "refused": refused, "ignored": _ignored(folder, given), "tip": tip}
    _write(folder, "found.json", json.dumps(answer).encode())
    return {
        "head": None if head is None else head.decode(),
        "follows": found,
        "pushes": {id_: commit for id_, commit in pushes.items() if commit is not None},
    }


def _fetched(repo: Repo, job: dict[str, Any], depth: int | None) -> ObjectID | None:
    """Fetch the branch; answer its newest commit, None where the repository is empty or has no such branch."""
    client, path = _client(job)
    ref, heads = _ref(job), b"refs/heads/"
    known: dict[bytes, bytes] = {}

    def wants(refs: Any, depth: int | None = None) -> list[ObjectID]:  # noqa: ARG001 - as it is called
        known.update(refs)
        return [refs[ref]] if ref in refs else []

    result = client.fetch(path, repo, determine_wants=wants, depth=depth, ref_prefix=[heads])
    if result.object_format not in (None, "sha1"):
        raise _Refused("unsupported", f"its objects are named by {result.object_format}, which is not supported")
    branches = sorted(_name(name[len(heads) :]) for name in known if name.startswith(heads))
    if branches and ref not in known and job["branch"] not in branches and not job["may_be_new"]:
        shown = ", ".join(branches[:10]) + (", …" if len(branches) > 10 else "")
        raise _Refused("no_branch", f"it has no branch {job['branch']!r}; there are: {shown}")
    return ObjectID(known[ref]) if ref in known else None


def _history(repo: Repo, head: ObjectID, since: str | None, pushes: dict[str, str | None]) -> tuple[bool | None, bool]:
    """Answer whether a commit is in the history of the head, None where none is asked for; and whether that history is cut.

    Notes the commits of the pushes that are looked for.
    """
    left, seen, cut = [head], {head}, False
    while left and len(seen) < MOST_COMMITS:
        commit = repo.object_store[left.pop()]
        if not isinstance(commit, Commit):
            raise _Refused("malformed", "its branch is no commit")
        for line in commit.message.splitlines():
            if line.startswith(TRAILER):
                id_ = line[len(TRAILER) :].decode("ascii", "replace")
                if id_ in pushes:
                    pushes[id_] = commit.id.decode()
        for parent in commit.parents:
            if parent not in seen:
                if parent in repo.object_store:
                    seen.add(parent)
                    left.append(parent)
                else:
                    cut = True
    return (None if since is None else since.encode() in seen), cut or bool(left)


def _files(repo: Repo, head: ObjectID, below: str, most: int) -> Iterator[tuple[bytes, int, ObjectID]]:
    """Yield path, mode and object of every entry of a commit's tree but folders."""
    found = _tree(repo, head, below)
    left: list[tuple[bytes, ObjectID]] = [] if found is None else [(b"", found)]
    entries = 0
    while left:
        prefix, oid = left.pop()
        tree = repo.object_store[oid]
        if not isinstance(tree, Tree):
            raise _Refused("malformed", f"{_name(prefix)} is no folder")
        for name, mode, child in tree.iteritems():
            entries += 1
            if entries > most:
                raise _Refused("too_large", f"it has more than {most} files and folders")
            path = prefix + name
            if stat.S_ISDIR(mode) and len(path) <= 4096 and name not in (b"", b".", b"..") and b"/" not in name:
                left.append((path + b"/", child))
            else:
                yield path, mode, child


def _tree(repo: Repo, head: ObjectID, below: str) -> ObjectID | None:
    commit = repo.object_store[head]
    if not isinstance(commit, Commit):
        raise _Refused("malformed", "its branch is no commit")
    if not below:
        return ObjectID(commit.tree)
    try:
        mode, found = tree_lookup_path(repo.object_store.__getitem__, commit.tree, below.encode())
    except (KeyError, NotTreeError):
        return None
    if not stat.S_ISDIR(mode):
        raise _Refused("no_folder", f"{below!r} is no folder there")
    return ObjectID(found)


def _refusal(path: bytes, mode: int) -> str | None:
    """Answer why an entry cannot be a file of a workspace, by its kind and its name."""
    if stat.S_ISDIR(mode):
        return "its path is too long, or no path at all"
    if not stat.S_ISREG(mode):
        return _SPECIAL.get(stat.S_IFMT(mode), f"it is of an unknown kind ({mode:o})")
    try:
        path.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    parts = path.lower().split(b"/")
    return "a part of its name is git's own" if b".git" in parts or b"git~1" in parts else None


def _blob(repo: Repo, oid: ObjectID) -> bytes:
    found = repo.object_store[oid]
    if not isinstance(found, Blob):
        raise _Refused("malformed", f"the object {oid.decode()} is no file")
    return found.data


def _described(repo: Repo, head: ObjectID) -> dict[str, Any]:
    commit = repo.object_store[head]
    assert isinstance(commit, Commit)  # noqa: S101 - its tree was read
    summary = commit.message.split(b"\n", 1)[0]
    return {"author": _name(commit.author)[:200], "summary": _name(summary)[:200], "at": commit.commit_time}


def _ignored(folder: str, given: dict[str, Any]) -> list[str]:
    """Answer which of some paths the workspace's own `.gitignore` files leave out, and what runs write unless these say else."""
    top = Path(folder, "ignoring")
    top.mkdir()
    for path, text in given["ignoring"].items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text, encoding="utf-8")
    filters = IgnoreFilterManager(str(top), [IgnoreFilter([one.encode() for one in given["always"]])], ignorecase=False)
    return [path for path in given["new"] if filters.is_ignored(path)]


# -- pushing ----------------------------------------------------------------------------------------------------------------


class _Added:
    """Objects that are to be sent, over those that were fetched."""

    def __init__(self, repo: Repo) -> None:
        self._store = repo.object_store
        self.objects: dict[ObjectID, ShaFile] = {}

    def __getitem__(self, oid: ObjectID) -> ShaFile:
        # An empty tree is false.
        found = self.objects[oid] if oid in self.objects else self._store[oid]
        return found.copy()

    def add_object(self, added: ShaFile) -> None:
        self.objects[added.id] = added


def _push(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    changes = _read(folder, "outgoing/changes.json")
    repo = Repo(str(Path(folder, "repository")))
    head = None if job["head"] is None else ObjectID(job["head"].encode())
    store: Any = _Added(repo)
    root = (None if head is None else _tree(repo, head, "")) or Tree()
    below = f"{job['folder']}/" if job["folder"] else ""
    gone, new = [], []
    for name, digest, executable in changes:
        full = (below + name).encode()
        before = _present(store, root, full)
        if digest is None:
            gone += [(full, None, None)] if before is not None else []
            continue
        blob = Blob.from_string(Path(folder, "outgoing", digest).read_bytes())
        store.add_object(blob)
        mode = before if before is not None and stat.S_ISREG(before) else 0o100755 if executable else 0o100644
        new.append((full, mode, blob.id))
    tree: ObjectID | Tree = root
    # A folder becomes a file, or a file a folder, in two steps.
    for some in (gone, new):
        tree = commit_tree_changes(store, tree, some) if some else tree
    if isinstance(tree, Tree):
        store.add_object(tree)
        tree = tree.id
    commit = Commit()
    commit.tree, commit.parents = tree, [] if head is None else [head]
    commit.author = commit.committer = job["author"].encode()
    commit.author_time = commit.commit_time = job["at"]
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    commit.message = job["message"].rstrip().encode() + b"\n\n" + TRAILER + job["id"].encode() + b"\n"
    store.add_object(commit)
    return {"commit": _sent(job, commit, head, list(store.objects.values()))}


def _present(store: Any, root: ObjectID | Tree, path: bytes) -> int | None:
    """Answer the mode of an entry; None where there is none."""
    if not isinstance(root, bytes):
        return None
    try:
        return tree_lookup_path(store.__getitem__, root, path)[0]
    except (KeyError, NotTreeError):
        return None


def _sent(job: dict[str, Any], commit: Commit, head: ObjectID | None, objects: list[ShaFile]) -> str:
    """Make the commit the branch's newest, if that is still the head."""
    client, path = _client(job)
    ref, sent = _ref(job), commit.id
    words: list[str] = []

    def update(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
        if refs.get(ref) != head:
            raise _Refused("moved", "the branch has another newest commit by now")
        return {ref: sent}

    def told(data: bytes) -> None:
        if len(words) < MOST_TOLD:
            words.append(_name(data))

    def packed(_have: Any, _want: Any, **_options: Any) -> Any:
        return pack_objects_to_data(objects)

    send: Callable[..., SendPackResult] = client.send_pack
    result = send(path, update, packed, progress=told)
    refusal = (result.ref_status or {}).get(ref)
    if refusal is not None:
        said = " ".join("".join(words).split())
        code = (
            "moved"
            if any(word in refusal for word in ("fast-forward", "fetch first", "failed to update ref", "lock"))
            else "rejected"
        )
        raise _Refused(code, f"the remote refused it: {refusal}" + (f" ({said})" if said else ""))
    return sent.decode()


def _ref(job: dict[str, Any]) -> Ref:
    return Ref(b"refs/heads/" + job["branch"].encode())


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _read(folder: str, name: str) -> Any:
    return json.loads(Path(folder, name).read_text(encoding="utf-8"))


def _write(folder: str, name: str, content: bytes) -> None:
    Path(folder, name).write_bytes(content)
