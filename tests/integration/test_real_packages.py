"""The packages that integrations are written with, installed from the machine's own index and imported in runs of every kind."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.executor.environments.indexes import indexes
from tests.support.extensions import COMPILER, NO_COMPILER, module_text
from tests.support.packages import yard
from tests.support.sandbox import KINDS, TIERS, Bench, Recorded, started_bench, value
from tests.support.sdists import archive_of

WANTED = (
    *("requests", "httpx", "pandas", "numpy", "boto3", "cryptography", "pydantic", "lxml", "jaraco.functools"),
    # Another of its namespace.
    "jaraco.text",
)
BODY = """
import jaraco.functools, jaraco.text
import boto3, httpx, lxml.etree, numpy, pandas, pydantic, requests
from cryptography.fernet import Fernet

class Order(pydantic.BaseModel):
    total: float

@workflow
def main() -> dict:
    key = Fernet(Fernet.generate_key())
    frame = pandas.DataFrame({"a": numpy.arange(4), "b": pandas.date_range("2026-01-01", periods=4, tz="Europe/Berlin")})
    return {
        "fernet": key.decrypt(key.encrypt(b"x")).decode(),
        "sum": int(frame.a.sum()),
        "xml": lxml.etree.fromstring("<a><b/></a>")[0].tag,
        "order": Order(total="1.5").total,
        "requests": requests.Request("GET", "https://h.example/").prepare().url,
        "httpx": str(httpx.Request("GET", "https://h.example/").url),
        "s3": boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b").meta.endpoint_url,
        "once": jaraco.functools.once(lambda: 1)(),
    }
"""


@pytest.fixture(scope="module")
async def packages() -> AsyncIterator[Path]:
    """One environment with all of them, built in the best tier."""
    async with yard(TIERS[0], indexes(None, None)) as place:
        yield await place.built(*WANTED)


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(request.param, code=Path(tempfile.gettempdir())) as one:
        yield one


async def test_the_packages_of_integrations_work_in_runs(bench: Bench, packages: Path) -> None:
    job = msgspec.structs.replace(bench.job(BODY, timeout=60), site_packages=packages)
    assert value(await bench.children.run(job, Recorded())) == {
        "fernet": "x",
        "sum": 6,
        "xml": "b",
        "order": 1.5,
        "requests": "https://h.example/",
        "httpx": "https://h.example/",
        "s3": "https://s3.eu-west-1.amazonaws.com",
        "once": 1,
    }


@pytest.mark.skipif("A" not in TIERS, reason="source distributions are built in tier A alone, which this machine forbids")
@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER))])
async def test_a_source_distribution_is_built_by_a_backend_of_the_index(*, compiles: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="millrace-test-") as name:
        links = Path(name)
        links.chmod(0o755)
        own = "ext_modules=[Extension('own', ['own.c'])]" if compiles else "py_modules=['own']"
        files = {
            "setup.py": f"from setuptools import *\nsetup(name='own', version='1.0', install_requires=['idna'], {own})\n",
            "own.py": "def word():\n    return 'own'\n",
            "own.c": module_text("own", "is kind"),
            "PKG-INFO": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n",
        }
        archive_of(links / "own-1.0.tar.gz", files)
        given = indexes(None, None)
        given = msgspec.structs.replace(given, links=(*given.links, str(links)))
        async with (
            yard("A", given, sdists=frozenset({"own"})) as place,
            started_bench("A", code=Path(tempfile.gettempdir())) as bench,
        ):
            folder = await place.built("own")
            body = "import idna, own\n@workflow\ndef main() -> list:\n    return [own.__name__, own.__file__.rpartition('.')[2]]\n"
            job = msgspec.structs.replace(bench.job(body), site_packages=folder)
            assert value(await bench.children.run(job, Recorded())) == ["own", "so" if compiles else "py"]


async def test_a_run_cannot_change_its_packages(bench: Bench, packages: Path) -> None:
    body = """
    import os, requests
    @workflow
    def main() -> list:
        folder = os.path.dirname(requests.__file__)
        found = []
        for attempt in (
            lambda: open(requests.__file__, "a"),
            lambda: open(folder + "/evil.py", "w"),
            lambda: os.unlink(requests.__file__),
            lambda: os.chmod(requests.__file__, 0o666),
            lambda: os.rename(folder, folder + "2"),
        ):
            try:
                attempt()
            except OSError:
                continue
            found.append(str(attempt))
        return found
    """
    job = msgspec.structs.replace(bench.job(body), site_packages=packages)
    assert value(await bench.children.run(job, Recorded())) == []


async def test_no_run_compiles_a_module_of_its_packages(bench: Bench, packages: Path) -> None:
    body = """
    import importlib._bootstrap_external as external
    compiled = []
    original = external.SourceLoader.source_to_code
    def noted(self, data, path, **more):
        compiled.append(path)
        return original(self, data, path, **more)
    external.SourceLoader.source_to_code = noted
    import pandas, requests
    @workflow
    def main() -> list:
        return [path for path in compiled if "pandas" in path or "requests" in path]
    """
    job = msgspec.structs.replace(bench.job(body, timeout=60), site_packages=packages)
    assert value(await bench.children.run(job, Recorded())) == []
