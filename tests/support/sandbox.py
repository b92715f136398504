"""A started sandbox over a bundle made of texts, and a record of all that its runs asked for."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.ground import Identity, require_reach
from services.executor.sandbox.interface import (
    MAX_CHUNK,
    CompletedCall,
    Description,
    Job,
    KeptResult,
    Level,
    Outcome,
    StartedRun,
    StepRecord,
    Stream,
    Tier,
)
from shared.errors import NotFound
from tests.support.seed import seed_sandbox

UID = SANDBOX_UID if os.geteuid() == 0 else None


def namespaces_allowed() -> bool:
    """Whether this machine lets the sandbox's user make namespaces and mount in them."""
    command = ["unshare", "--user", "--map-current-user", "--mount", "--pid", "--net", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, user=UID, capture_output=True, check=False).returncode == 0


TIERS: tuple[Tier, ...] = ("A", "B", "none") if namespaces_allowed() else ("B", "none")
TEMPLATES = "A from templates"
KINDS: dict[str, dict[str, Any]] = {
    **{tier: {"tiers": (tier,), "template_after": None} for tier in TIERS},
    **({TEMPLATES: {"tiers": ("A",), "template_after": 1}} if "A" in TIERS else {}),
}
"""Sandboxes by the tier and the origin of children: the zygote, or a template from a bundle's first job on."""
GATED: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "none")
FORKING: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "B")
"""Kinds in which a run may start processes."""
OF_A: tuple[str, ...] = tuple(kind for kind in KINDS if kind.startswith("A"))


def children_of(pid: int) -> set[int]:
    """The processes that a process is the parent of."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {*map(int, (task / "children").read_text().split())}
    return found


def below(pid: int) -> set[int]:
    """All that descends from a process."""
    return {found for child in children_of(pid) for found in (child, *below(child))}


def reachable_interpreter() -> Path | None:
    """This interpreter, or, where the sandbox's user cannot reach it, the system's of the same version; or None."""
    who = Identity(SANDBOX_UID, SANDBOX_UID)
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = Path(sys.executable).resolve()
    for candidate in (own, *(Path(folder) / name for folder in ("/usr/local/bin", "/usr/bin"))):
        try:
            require_reach(candidate.resolve(), who, "it")
            if candidate == own:
                require_reach(Path(sysconfig.get_path("stdlib")).resolve(), who, "it")
        except (SandboxUnavailable, FileNotFoundError):
            continue
        return candidate
    return None


def value(outcome: Outcome) -> object:
    """The result of a run that succeeded."""
    assert outcome.status == "succeeded", outcome
    assert outcome.result is not None
    return json.loads(bytes(outcome.result))


class Recorded:
    """Capabilities that remember."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network
        self.logs: list[tuple[Level, str, dict[str, Any]]] = []
        self.texts: dict[Stream, str] = {"stdout": "", "stderr": ""}
        self.steps: dict[tuple[str, int], msgspec.Raw] = {}
        self.asked: list[str] = []
        self.results: dict[str, bytes] = {}
        self.largest_part = 0
        self.logged = asyncio.Event()
        self.variables: dict[str, Any] = {}
        self.secrets: dict[str, str] = {}
        self.events: list[tuple[str, str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.parts: list[tuple[str, int]] = []
        self._writing: dict[int, bytearray] = {}

    async def begin(self) -> None:
        pass

    async def log(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        self.logs.append((level, event, fields))
        self.logged.set()

    async def output(self, stream: Stream, text: str) -> None:
        self.texts[stream] += text

    async def keep_result(self, parts: AsyncIterator[bytes]) -> KeptResult:
        kept = bytearray()
        async for part in parts:
            kept += part
            self.largest_part = max(self.largest_part, len(part))
        sha256 = hashlib.sha256(kept).hexdigest()
        self.results[sha256] = bytes(kept)
        return KeptResult(sha256, len(kept))

    async def step_get(self, name: str, ordinal: int, of: str) -> StepRecord | None:
        found = self.steps.get((name, ordinal))
        return None if found is None else StepRecord(found)

    async def step_put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
        self.steps[name, ordinal] = result

    async def wait(self, of: str, name: str, ordinal: int, position: int | None, seconds: float | None) -> StepRecord | None:
        return None

    async def wait_for_event(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, asked: msgspec.Raw
    ) -> StepRecord | None:
        return None

    async def give_up(self, of: str, name: str, ordinal: int, position: int | None) -> None:
        self.asked.append(f"give up {name}")

    async def ask(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, question: msgspec.Raw
    ) -> StepRecord | None:
        self.asked.append(json.loads(bytes(question))["prompt"])
        return await self.wait("ask", name, ordinal, position, seconds)

    async def approval_link(self, approval: str, name: str) -> dict[str, Any]:
        token = hashlib.sha256(f"{approval} {name}".encode()).hexdigest()
        return {"url": f"https://millrace.example/approve?link={token}", "ends_at": "2026-01-31T09:30:00Z"}

    async def signal_run(self, run: str, name: str, data: msgspec.Raw) -> None:
        self.asked.append(f"signal {name} to {run}: {json.loads(bytes(data))}")

    async def start_run(self, asked: StartedRun) -> str:
        return f"child of {asked.workflow}"

    async def cancel_run(self) -> None:
        self.asked.append("cancel")

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        self.asked.append(name)
        if name != "halopsa":
            msg = f"there is no connection {name}"
            raise NotFound(msg)
        return {"name": name, "token": "sesame", "expires_at": "2026-01-31T09:30:00Z"}

    async def variable(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        if name not in self.variables:
            msg = f"there is no variable {name!r} in this organization or in global"
            raise NotFound(msg)
        return {"value": self.variables[name]}

    async def secret(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        if name not in self.secrets:
            msg = f"there is no secret {name!r} in this organization or in global"
            raise NotFound(msg)
        return {"value": self.secrets[name]}

    async def integration(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return {"name": name, "config": {"url": "https://h.example"}, "entity_id": "7", "connection": "halopsa"}

    async def emit(self, source: str, type_: str, data: msgspec.Raw) -> dict[str, Any]:
        self.events.append((source, type_, json.loads(bytes(data))))
        return {"id": f"event-{len(self.events)}", "delivery": "d"}

    async def file_find(self, path: str) -> dict[str, Any]:
        if path not in self.files:
            msg = f"there is no file {path!r}"
            raise NotFound(msg)
        content = self.files[path]
        return {
            "path": path,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "updated_at": "2026-01-31T09:30:00Z",
        }

    async def file_list(self, prefix: str, after: str) -> dict[str, Any]:
        found = sorted(path for path in self.files if path.startswith(prefix) and path > after)
        items = [await self.file_find(path) for path in found[:2]]
        return {"items": items, "next": found[1] if len(found) > 2 else None}

    async def file_read(self, path: str, reading: int, at: int) -> dict[str, Any]:
        await self.file_find(path)
        self.parts.append((path, at))
        return {"data": self.files[path][at : at + MAX_CHUNK], "size": len(self.files[path])}

    async def file_write(self, path: str, writing: int, at: int, data: bytes, *, is_last: bool) -> dict[str, Any] | None:
        self.parts.append((path, at))
        written = self._writing.setdefault(writing, bytearray())
        assert len(written) == at
        written += data
        if not is_last:
            return None
        self.files[path] = bytes(self._writing.pop(writing))
        return await self.file_find(path)

    async def file_delete(self, path: str) -> None:
        await self.file_find(path)
        del self.files[path]


class Bench:
    """Runs texts as workflows. `children` is started; `folder` is a place that the child can read."""

    def __init__(self, children: Children, folder: Path) -> None:
        self.children = children
        self.folder = folder
        self._bundles = 0

    def bundle(self, **files: str) -> Path:
        """Write a bundle; `a__b="…"` is the file a/b.py."""
        self._bundles += 1
        bundle = self.folder / f"bundle-{self._bundles}"
        for name, text in files.items():
            path = bundle / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        for path in (bundle, *bundle.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return bundle

    def job(self, body: str, *, timeout: float = 20, function: str = "main", **given: Any) -> Job:
        """A job that runs `main` of a module with this text."""
        bundle = self.bundle(flows__one="from millrace import *\n" + textwrap.dedent(body))
        return Job(
            run="r1",
            attempt=1,
            org="default",
            workflow=function,
            bundle=bundle,
            module="flows/one.py",
            function=function,
            input=given,
            timeout=timeout,
        )

    @property
    def tree(self) -> set[int]:
        """All processes of the one run that is going on, by their numbers outside."""
        (child,) = self.children._serving
        return {child.pid} | below(child.pid)

    async def run(self, body: str, into: Recorded | None = None, *, timeout: float = 20, **given: Any) -> Outcome:
        """Run a module's text to its end, as another attempt where `into` holds steps already."""
        into = into or Recorded()
        recorded = [CompletedCall("step", name, ordinal) for name, ordinal in into.steps]
        job = msgspec.structs.replace(self.job(body, timeout=timeout, **given), recorded=recorded)
        return await self.children.run(job, into)

    async def describe(self, **files: str) -> Description:
        """Describe a bundle made of texts."""
        return await self.children.describe(self.bundle(**files))


@asynccontextmanager
async def started_bench(kind: str | None = None, **options: Any) -> AsyncIterator[Bench]:
    """Start a sandbox as this machine allows, or of one of `KINDS`: under its own user where the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    folder.chmod(0o755)
    interpreter = None if UID is None else reachable_interpreter()
    of_kind = {"tiers": TIERS[:1]} if kind is None else KINDS[kind]
    chosen = {"size": 1, "uid": UID, "interpreter": interpreter} | of_kind | options
    seed_sandbox(folder / "executor")
    children = Children(folder / "executor", **chosen)
    try:
        await children.start()
        yield Bench(children, folder)
    finally:
        await children.close()
        shutil.rmtree(folder)
