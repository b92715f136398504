"""Small wheels, an index of files, and a builder over them."""

import base64
import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import uv

from services.executor.environments import sources
from services.executor.environments.access import IndexAccess
from services.executor.environments.disk import Disk
from services.executor.environments.environments import Environments, Failed
from services.executor.environments.indexes import Indexes
from services.executor.environments.lock import Lock, Package
from services.executor.environments.requirements import Requirements, of_text
from services.executor.sandbox.builder import Builder, StepLimits
from services.executor.sandbox.interface import Tier
from shared.egress.resolver import Resolver
from shared.errors import Unavailable
from tests.support.sandbox import UID, reachable_interpreter

PLAIN_FILE = 0o100644


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, str | bytes] | None = None,
    *,
    requires: tuple[str, ...] = (),
    modes: Mapping[str, int] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel that holds these files, by default one module; `modes` are Unix modes of some, with their kind."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = {f"{module}.py": f"VERSION = {version!r}\n"} if files is None else dict(files)
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    lines = []
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{file},sha256={digest},{len(data)}")
            entry = zipfile.ZipInfo(file)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (modes or {}).get(file, PLAIN_FILE) << 16
            archive.writestr(entry, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]))
    return path


class Yard:
    """A folder of links, and environments built from it. `links` is where wheels go."""

    def __init__(self, folder: Path, disk: Disk, environments: Environments, links: Path, builder: Builder) -> None:
        self.folder = folder
        self.disk = disk
        self.environments = environments
        self.links = links
        self.builder = builder

    def wheel(self, name: str, version: str = "1.0", files: Mapping[str, str | bytes] | None = None, **more: object) -> Path:
        """Write a wheel into the index; see `wheel`."""
        path = wheel(self.links, name, version, files, **more)  # type: ignore[arg-type]
        path.chmod(0o644)
        return path

    async def built(self, *texts: str, org: str = "default") -> Path:
        """Resolve requirements and build their environment. Raises `Failed`."""
        requirements = of_text("requirements.txt", "\n".join(texts) + "\n")
        return await self.environments.build(await self.environments.resolve(org, requirements), requirements, org=org)

    def lock(self, *paths: Path) -> Lock:
        """Make a lock of wheels without a resolver, which would refuse some of them itself."""
        return Lock(
            tuple(
                Package(path.name.split("-")[0], path.name.split("-")[1], path.name, _sha256(path), path.as_uri())
                for path in sorted(paths)
            )
        )

    async def refusal(self, path: Path, *texts: str) -> tuple[str, int, str]:
        """Build a lock of one wheel, which cannot be built; return path, line and words of the one problem."""
        try:
            await self.environments.build(self.lock(path), self.requirements(*texts))
        except Failed as error:
            (problem,) = error.problems
            return problem.path, problem.line, problem.message
        raise AssertionError("it was built")

    async def failure(self, *texts: str) -> tuple[str, int, str]:
        """Build what cannot be built; return path, line and words of its one problem."""
        try:
            await self.built(*texts)
        except Failed as error:
            (problem,) = error.problems
            return problem.path, problem.line, problem.message
        raise AssertionError("it was built")

    def requirements(self, *texts: str) -> Requirements:
        """Read lines of requirements."""
        return of_text("requirements.txt", "\n".join(texts) + "\n")


async def _no_secret(name: str) -> str:
    raise Unavailable(f"no secret {name} here")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@asynccontextmanager
async def yard(
    tier: Tier,
    indexes: Indexes | None = None,
    *,
    limits: StepLimits | None = None,
    sdists: frozenset[str] = frozenset(),
    of_strangers: StepLimits = sources.LIMITS,
    most_each: int = 1 << 50,
) -> AsyncIterator[Yard]:
    """Have a builder of a tier over an index of files, or over given indexes beside it; another builds the `sdists`."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    folder.chmod(0o755)
    links = folder / "links"
    links.mkdir()
    links.chmod(0o755)
    program = folder / "uv"
    shutil.copy2(uv.find_uv_bin(), program)
    program.chmod(0o755)
    given = indexes or Indexes(default=None, links=(str(links),))
    disk = Disk(folder / "data" / "environments")
    disk.start()
    interpreter = None if UID is None else reachable_interpreter()
    shown = [program, links, *given.folders]
    builder = Builder(
        folder / "data" / "sandbox", disk.folder, tier=tier, uid=UID, interpreter=interpreter, shown=shown, limits=limits
    )
    stranger = Builder(
        folder / "data" / "sandbox",
        disk.folder,
        tier=tier,
        uid=UID,
        interpreter=interpreter,
        shown=[Path("/usr/include")],
        limits=of_strangers,
        output=sources.OUTPUT,
    )
    resolver = Resolver()
    access = IndexAccess(given, _no_secret)
    try:
        yield Yard(
            folder, disk, Environments(disk, builder, access, program, resolver, stranger, sdists, most_each), links, builder
        )
    finally:
        await builder.close()
        await stranger.close()
        disk.close()
        resolver.close()
        shutil.rmtree(folder)
