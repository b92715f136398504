"""What a run reaches through its proxy, what it does not, and what its packages are changed for that."""

import asyncio
import socket
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio

from services.executor.sandbox.children import Children
from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.process import Child
from shared.egress.policy import EgressRules, rules
from tests.support.egress import Names, listening
from tests.support.inside import eventually
from tests.support.sandbox import TIERS, Bench, Recorded, started_bench, value
from tests.support.tls import Certificates, api, certificates_in


class Closed(Children):
    """Children whose way out listens; their network is open besides, so what is tested is where the clients go by themselves."""

    async def _warm(self, *args: Any) -> Child:
        child = await super()._warm(*args)
        child.egress_listener = child.egress_listener or listening()
        return child


@pytest_asyncio.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("tests.support.sandbox.Children", Closed)
    # Their network is open and they may read this environment's packages: only tier "none" gives that.
    async with started_bench(uid=None, interpreter=None, tiers=("none",), unsafe=True) as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("tls"))


@pytest.mark.skipif("A" not in TIERS, reason="namespaces are forbidden here")
async def test_a_run_behind_all_walls_reaches_what_it_may_and_nothing_else(certificates: Certificates) -> None:
    text = """
        import json, socket, urllib.error, urllib.request
        @workflow
        def main(port: int):
            found = json.loads(urllib.request.urlopen(f"http://api.example:{port}/who").read())
            try: urllib.request.urlopen("http://inner.example/")
            except urllib.error.HTTPError as error: found["denied"] = error.code
            try: socket.create_connection(("127.0.0.1", port), timeout=5)
            except OSError as error: found["past"] = type(error).__name__
            try: socket.getaddrinfo("api.example", port)
            except OSError as error: found["resolved"] = type(error).__name__
            return found
    """
    told: list[Record] = []
    names = Names(api_example="127.0.0.1", inner_example="10.0.0.1")
    network = Network(EgressRules(rules("127.0.0.1", allows=True)).of("default"), names, told.append)
    async with api(certificates) as (plain, _), started_bench(tiers=("A",)) as bench:
        found = value(await bench.run(text, Recorded(network), port=plain))
    # Its own loopback is another one than ours, and what goes out has no token: the namespace says whose it is.
    assert found == {
        "host": f"api.example:{plain}",
        "proxied": False,
        "denied": 403,
        "past": "PermissionError",
        "resolved": "gaierror",
    }
    # Each is told at its end, in whatever order they end.
    assert {(record.outcome, record.host) for record in told} == {("connected", "api.example"), ("denied", "inner.example")}
    assert len(told) == 2


async def test_aiohttp_is_changed_only_when_it_is_imported_and_only_by_default(bench: Bench) -> None:
    text = """
        import sys
        @workflow
        async def main():
            before = [name for name in sys.modules if name.startswith("aiohttp")]
            finders = len(sys.meta_path)
            import aiohttp, inspect
            async with aiohttp.ClientSession() as one, aiohttp.ClientSession(trust_env=False) as other:
                kept = [one.trust_env, other.trust_env]
            return [before, finders - len(sys.meta_path), kept, aiohttp.ClientSession.__module__,
                    inspect.signature(aiohttp.ClientSession).parameters["trust_env"].default]
    """
    job = msgspec.structs.replace(bench.job(text), site_packages=Path(sysconfig.get_path("purelib")))
    network = Network(EgressRules().of("default"), Names(), lambda _record: None)
    assert value(await bench.children.run(job, Recorded(network))) == [[], 1, [True, False], "aiohttp.client", True]


async def test_a_workspace_without_aiohttp_runs_as_ever(bench: Bench) -> None:
    text = """
        @workflow
        def main():
            try: import aiohttp.client
            except ImportError as error: return str(error)
    """
    network = Network(EgressRules().of("default"), Names(), lambda _record: None)
    assert value(await bench.run(text, Recorded(network))) == "No module named 'aiohttp'"


async def test_a_run_that_may_reach_nothing_has_no_proxy(bench: Bench) -> None:
    text = """
        import os
        @workflow
        def main(): return [name for name in os.environ if "proxy" in name.lower()]
    """
    assert value(await bench.run(text)) == []


@pytest.mark.parametrize("token", ["0123456789abcdef", "0123456789ABCDef", "GHO_0123456789"])
async def test_what_a_run_reached_is_told_before_its_end_and_its_host_is_masked(bench: Bench, token: str) -> None:
    class Trusting(Recorded):
        async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
            return {"name": name, "token": token, "expires_at": None}

    text = """
        import socket, os
        from urllib.parse import urlsplit
        @workflow
        def main():
            proxy = urlsplit(os.environ["https_proxy"])
            with socket.create_connection((proxy.hostname, proxy.port)) as kept:
                import base64
                token = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
                host = connections.get("halopsa").token + ".example"
                kept.sendall(f"CONNECT {host}:443 HTTP/1.1\\r\\nProxy-Authorization: Basic {token}\\r\\n\\r\\n".encode())
                return kept.recv(65536).decode().split("\\r\\n")[0]
    """
    told: list[Record] = []
    network = Network(EgressRules(rules("*.example", allows=False)).of("default"), Names(), told.append)
    assert "403 Forbidden by Millrace" in str(value(await bench.run(text, Trusting(network))))
    assert [record.host for record in told] == ["***.example"]


async def test_another_process_of_the_machine_cannot_use_the_runs_proxy(bench: Bench) -> None:
    text = """
        import os, time
        @workflow
        def main(folder: str):
            with open(f"{folder}/address.new", "w") as file: file.write(os.environ["http_proxy"])
            os.rename(f"{folder}/address.new", f"{folder}/address")
            while not os.path.exists(f"{folder}/done"): time.sleep(0.01)
    """
    told: list[Record] = []
    network = Network(EgressRules(rules("127.0.0.1", allows=True)).of("default"), Names(), told.append)
    running = asyncio.create_task(bench.run(text, Recorded(network), folder=str(bench.folder)))

    async def is_told() -> bool:
        return (bench.folder / "address").exists()

    await eventually(is_told)
    port = urlsplit((bench.folder / "address").read_text()).port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 407 ")
    writer.close()
    (bench.folder / "done").touch()
    assert value(await running) is None
    assert [(record.outcome, record.reason) for record in told] == [("denied", "token")]
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0
