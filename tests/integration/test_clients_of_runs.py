"""Every usual HTTP client goes through the proxy inside a real child, with nothing said about it in the author's code, and trusts
the authority whose certificate is in the bundle.
"""

import importlib.metadata
import shutil
import ssl
import textwrap
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from packaging.requirements import Requirement

from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.interface import Job
from shared.egress.policy import EgressRules, rules
from tests.support.egress import Names, listening
from tests.support.sandbox import GATED, KINDS, UID, Bench, Recorded, reachable_interpreter, started_bench, value
from tests.support.tls import DOWNLOAD, Certificates, api, certificates_in

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")

UPLOAD = 1_500_000

# Each fetches, uploads and is refused once by plain HTTP and once by TLS, as its own documentation would have it.
CLIENTS = {
    "urllib": """
        import json, ssl, urllib.error, urllib.request
        def fetch(url, data=None):
            context = ssl.create_default_context(cafile=CA)
            return urllib.request.urlopen(urllib.request.Request(url, data=data), context=context).read()
        @workflow
        def main(urls: list, denied: list):
            found = [[json.loads(fetch(url + "/who"))["host"], int(fetch(url + "/size", b"x" * UPLOAD)),
                      len(fetch(url + "/large"))] for url in urls]
            reasons = []
            for url in denied:
                try: fetch(url)
                except urllib.error.HTTPError as error: reasons.append(error.read().decode())
                except OSError as error: reasons.append(str(error))
            return found, reasons
    """,
    "requests": """
        import requests
        @workflow
        def main(urls: list, denied: list):
            session = requests.Session()
            session.verify = CA
            found = [[session.get(url + "/who").json()["host"], session.post(url + "/size", data=b"x" * UPLOAD).json(),
                      len(session.get(url + "/large").content)] for url in urls]
            reasons = []
            for url in denied:
                try: reasons.append(session.get(url).text)
                except requests.exceptions.ProxyError as error: reasons.append(str(error))
            return found, reasons
    """,
    "httpx": """
        import httpx, ssl
        @workflow
        async def main(urls: list, denied: list):
            async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=CA)) as client:
                found = [[(await client.get(url + "/who")).json()["host"],
                          (await client.post(url + "/size", content=b"x" * UPLOAD)).json(),
                          len((await client.get(url + "/large")).content)] for url in urls]
                reasons = []
                for url in denied:
                    try: reasons.append((await client.get(url)).text)
                    except httpx.ProxyError as error: reasons.append(str(error))
            return found, reasons
    """,
    "aiohttp": """
        import aiohttp, ssl
        @workflow
        async def main(urls: list, denied: list):
            context = ssl.create_default_context(cafile=CA)
            async with aiohttp.ClientSession() as session:
                async def fetch(method, url, **more):
                    async with session.request(method, url, ssl=context, **more) as response:
                        return await response.read()
                found = [[__import__("json").loads(await fetch("GET", url + "/who"))["host"],
                          int(await fetch("POST", url + "/size", data=b"x" * UPLOAD)),
                          len(await fetch("GET", url + "/large"))] for url in urls]
                reasons = []
                for url in denied:
                    try: reasons.append((await fetch("GET", url)).decode())
                    except aiohttp.ClientHttpProxyError as error: reasons.append(error.message)
            return found, reasons
    """,
    "http.client": """
        import http.client, json, os, ssl
        from urllib.parse import urlsplit
        def fetch(url, data=None):
            asked, proxy = urlsplit(url), urlsplit(os.environ["http_proxy"])
            # In tier B the proxy wants the token of the run, which is in its address.
            import base64
            token = base64.b64encode(f"{proxy.username or ''}:{proxy.password or ''}".encode()).decode()
            head = {"Proxy-Authorization": "Basic " + token} if proxy.username else {}
            if asked.scheme == "https":
                context = ssl.create_default_context(cafile=CA)
                connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context)
                connection.set_tunnel(asked.hostname, asked.port, headers=head)
                connection.request("POST" if data else "GET", asked.path or "/", body=data)
            else:
                connection = http.client.HTTPConnection(proxy.hostname, proxy.port)
                connection.request("POST" if data else "GET", url, body=data, headers=head)
            return connection.getresponse().read()
        @workflow
        def main(urls: list, denied: list):
            found = [[json.loads(fetch(url + "/who"))["host"], int(fetch(url + "/size", b"x" * UPLOAD)), len(fetch(url + "/large"))]
                     for url in urls]
            reasons = []
            for url in denied:
                try: reasons.append(fetch(url).decode())
                except OSError as error: reasons.append(str(error))
            return found, reasons
    """,
    "urllib3": """
        import os, urllib3, urllib3.util
        @workflow
        def main(urls: list, denied: list):
            # As requests and botocore do it: the proxy by the environment, the authority by its file.
            proxy = os.environ["https_proxy"]
            headers = urllib3.util.make_headers(proxy_basic_auth=urllib3.util.parse_url(proxy).auth)
            pool = urllib3.proxy_from_url(proxy, proxy_headers=headers, cert_reqs="CERT_REQUIRED", ca_certs=CA)
            found = [[pool.request("GET", url + "/who").json()["host"],
                      pool.request("POST", url + "/size", body=b"x" * UPLOAD).json(),
                      len(pool.request("GET", url + "/large").data)] for url in urls]
            reasons = []
            for url in denied:
                try: reasons.append(pool.request("GET", url, retries=False).data.decode())
                except urllib3.exceptions.HTTPError as error: reasons.append(str(error))
            return found, reasons
    """,
    "connections.client": """
        @workflow
        def main(urls: list, denied: list):
            http = connections.client("halopsa", cafile=CA)
            found = [[http.get(url + "/who").json()["host"], http.post(url + "/size", data=b"x" * UPLOAD).json(),
                      len(http.get(url + "/large").content)] for url in urls]
            reasons = []
            for url in denied:
                try: http.get(url)
                except RequestFailed as error: reasons.append(str(error))
            return found, reasons
    """,
}
STANDARD = frozenset({"urllib", "http.client", "connections.client"})
"""Clients of the standard library."""
BESIDE = """
    from pathlib import Path
    CA = str(Path(__file__).with_name("ca.pem"))
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("tls"))


def install(names: Iterable[str], folder: Path) -> None:
    """Copy packages of this environment, with all that they need, to where the sandbox's user can read them."""
    left, seen = list(names), set[str]()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(str(distribution.locate_file(file))), folder / file)
        needed = [Requirement(one) for one in distribution.requires or ()]
        left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=GATED)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(**KINDS[request.param]) as made:
        install(["requests", "httpx", "aiohttp", "certifi"], made.folder / "packages")
        yield made


def job_of(bench: Bench, text: str, certificates: Certificates, **given: Any) -> Job:
    """A job whose module has the authority's certificate beside it."""
    job = bench.job(textwrap.dedent(BESIDE) + textwrap.dedent(text), timeout=60, **given)
    copy = job.bundle / "flows" / "ca.pem"
    copy.write_bytes(certificates.authority.read_bytes())
    copy.chmod(0o444)
    return job


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_uses_the_proxy_by_itself(client: str, bench: Bench, certificates: Certificates) -> None:
    told: list[Record] = []
    names = Names(api_example="127.0.0.1", inner_example="10.0.0.1")
    network = Network(EgressRules(rules("127.0.0.1", allows=True)).of("default"), names, told.append)
    async with api(certificates) as (plain, secure):
        # The name is known to the proxy's resolver only: who does not ask the proxy reaches nothing.
        urls = [f"http://api.example:{plain}", f"https://api.example:{secure}"]
        denied = ["http://inner.example/", "https://inner.example/"]
        job = job_of(bench, CLIENTS[client].replace("UPLOAD", str(UPLOAD)), certificates, urls=urls, denied=denied)
        job = msgspec.structs.replace(job, site_packages=None if client in STANDARD else bench.folder / "packages")
        found = value(await bench.children.run(job, Recorded(network)))
    assert isinstance(found, list)
    answers, reasons = found
    assert answers == [[f"api.example:{port}", UPLOAD, DOWNLOAD] for port in (plain, secure)]
    assert len(reasons) == 2
    assert all("inner.example resolves to 10.0.0.1 is a private address" in reason for reason in reasons), reasons
    connected = [record for record in told if record.outcome == "connected"]
    assert {(record.host, record.port, record.address) for record in connected} == {
        ("api.example", plain, "127.0.0.1"),
        ("api.example", secure, "127.0.0.1"),
    }
    for port in (plain, secure):
        assert sum(record.sent for record in connected if record.port == port) > UPLOAD
        assert sum(record.received for record in connected if record.port == port) > DOWNLOAD
    refused = [record for record in told if record.outcome == "denied"]
    assert {(record.host, record.port, record.reason) for record in refused} == {
        ("inner.example", 80, "private"),
        ("inner.example", 443, "private"),
    }


UNTRUSTED = """
    import ssl, urllib.error, urllib.request
    @workflow
    def main(port: int):
        reasons = []
        for host, cafile in (("api.example", CA), ("other.example", CA), ("api.example", None)):
            try:
                context = ssl.create_default_context(cafile=cafile)
                reasons.append(urllib.request.urlopen(f"https://{host}:{port}/who", context=context).status)
            except urllib.error.URLError as error:
                reasons.append(error.reason.verify_message)
        return reasons
"""


async def test_a_certificate_of_another_name_or_authority_is_refused(bench: Bench, certificates: Certificates) -> None:
    names = Names(api_example="127.0.0.1", other_example="127.0.0.1")
    network = Network(EgressRules(rules("127.0.0.1", allows=True)).of("default"), names, lambda _: None)
    async with api(certificates) as (_, port):
        found = value(await bench.children.run(job_of(bench, UNTRUSTED, certificates, port=port), Recorded(network)))
    assert isinstance(found, list)
    assert found[0] == 200
    assert "Hostname mismatch" in found[1]
    assert "unable to get local issuer certificate" in found[2]


async def test_a_run_has_the_authorities_of_the_machine_and_of_certifi_and_time_zones(bench: Bench) -> None:
    text = """
        import certifi, datetime, ssl, zoneinfo
        @workflow
        def main():
            stored = [ssl.create_default_context(cafile=cafile).cert_store_stats()["x509_ca"] for cafile in (certifi.where(), None)]
            noon = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
            return stored, noon.astimezone(datetime.UTC).hour
    """
    found = value(
        await bench.children.run(msgspec.structs.replace(bench.job(text), site_packages=bench.folder / "packages"), Recorded())
    )
    assert isinstance(found, list)
    (of_certifi, of_the_machine), hour = found
    # OpenSSL reads a folder of authorities only when it looks for one of them.
    has_file = Path(ssl.get_default_verify_paths().cafile or "/nowhere").exists()
    assert (of_certifi > 100, of_the_machine > 0, hour) == (True, has_file, 10)


@pytest.mark.parametrize("kind", [kind for kind in GATED if kind == "B"])
async def test_a_run_of_tier_b_connects_to_its_own_port_only_and_may_not_listen(kind: str) -> None:
    text = """
        import os, socket
        from urllib.parse import urlsplit
        @workflow
        def main(other: int):
            own = urlsplit(os.environ["http_proxy"]).port
            found = []
            for port in (own, other):
                try: socket.create_connection(("127.0.0.1", port), timeout=5).close(); found.append("connected")
                except OSError as error: found.append(type(error).__name__)
            with socket.socket() as server:
                try: server.bind(("127.0.0.1", 0)); found.append("bound")
                except OSError as error: found.append(type(error).__name__)
            opened = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
            found.append(sum(os.path.lexists(one) and os.readlink(one).startswith("socket:") for one in opened))
            return found, own
    """
    network = Network(EgressRules().of("default"), Names(), lambda _: None)
    async with started_bench(kind=kind) as bench:
        with listening() as other:
            port = other.getsockname()[1]
            first = value(await bench.run(text, Recorded(network), other=port))
            second = value(await bench.run(text, Recorded(network), other=port))
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert first[0] == second[0] == ["connected", "PermissionError", "PermissionError", 1]
        assert first[1] != second[1]
        # Without a network there is nothing at the port.
        assert value(await bench.run("@workflow\ndef main():\n    import os\n    return os.environ.get('http_proxy')")) is None
