"""Large files and results, seen from outside: what is answered, and what it costs the services."""

import hashlib
import json
import random

import aiohttp

from tests.support.client import Client
from tests.support.large_files import LargeFiles, peak_mb, reset_peak, settled
from tests.support.stack import Up

WORKFLOWS = b"""
from millrace import workflow


@workflow
def text(size: int) -> str:
    return "x" * size


@workflow
def rows(count: int) -> list:
    return [{"id": n, "name": f"row {n}", "seen": None} for n in range(count)]


@workflow
def fail() -> None:
    raise ValueError("no")
"""
# Megabytes that a service may grow by while 60 pass through it: what is under way, and what the allocator keeps.
GROWTH = 40
FILES_GROWTH = 64


async def test_a_large_result_is_streamed_in_bounded_memory(up: Up) -> None:
    pids = {name: up.read()["services"][name] for name in ("executor", "gateway")}
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        await client.put_file("large.py", WORKFLOWS)
        warm = await client.call("POST", "/api/v1/workflows/text/runs?wait=60", body={"input": {"size": 1_000_000}}, status=200)
        assert warm["status"] == "succeeded", warm
        before = {}
        for name, pid in pids.items():
            reset_peak(pid)
            before[name] = peak_mb(pid)
        size = 60 << 20
        asked = await client.call("POST", "/api/v1/workflows/text/runs", body={"input": {"size": size}}, status=202)
        run = await client.run(asked["id"], "succeeded", within=120)
        assert (run["result"], run["result_bytes"]) == (None, size + 2)
        digest, length = hashlib.sha256(), 0
        headers = {"Authorization": f"Bearer {up.ready['admin_key']}"}
        url = f"{up.ready['url']}/api/v1/runs/{run['id']}/result"
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_type == "application/json"
            assert int(answer.headers["Content-Length"]) == size + 2
            assert answer.headers["ETag"] == f'"{run["result_ref"]}"'
            async for chunk in answer.content.iter_chunked(1 << 20):
                digest.update(chunk)
                length += len(chunk)
        assert (length, digest.hexdigest()) == (size + 2, run["result_ref"])
        grown = {name: peak_mb(pid) - before[name] for name, pid in pids.items()}
        assert all(more < GROWTH for more in grown.values()), grown


async def test_large_files_pass_in_bounded_memory_in_any_order(up: Up) -> None:
    ready = up.read()
    pids = {name: ready["services"][name] for name in ("executor", "gateway")}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ready['admin_key']}"}) as api:
        files = LargeFiles(api, ready["url"])
        await files.put_module("flows/large.py", 1 << 20)
        steps = {
            "one": lambda: files.through("data/one.bin", 1, 150 << 20),
            "sequence": lambda: files.in_sequence(20, 5 << 20),
            "at once": lambda: files.at_once(40, 5 << 20),
            "module": lambda: files.put_module("flows/large.py", 20 << 20),
        }
        idle = await settled(pids)
        for name in random.sample(sorted(steps), len(steps)):
            await steps[name]()
            grown = {service: round(peak_mb(pid) - idle[service]) for service, pid in pids.items()}
            assert all(more <= FILES_GROWTH for more in grown.values()), (name, grown)


async def test_every_result_can_be_read_by_its_run(up: Up) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        await client.put_file("large.py", WORKFLOWS)
        url, headers = f"{up.ready['url']}/api/v1/runs", {"Authorization": f"Bearer {up.ready['admin_key']}"}
        for name, given in (("text", {"size": 5}), ("rows", {"count": 20_000})):
            run = await client.call("POST", f"/api/v1/workflows/{name}/runs?wait=60", body={"input": given}, status=200)
            async with session.get(f"{url}/{run['id']}/result", headers=headers) as answer:
                body = await answer.read()
                tag = answer.headers["ETag"]
                assert (answer.status, answer.content_type) == (200, "application/json")
            assert tag == f'"{hashlib.sha256(body).hexdigest()}"'
            found = json.loads(body)
            if name == "text":
                assert (found, run["result"], run["result_ref"], run["result_bytes"]) == ("xxxxx", "xxxxx", None, None)
            else:
                assert len(found) == 20_000
                assert (run["result"], run["result_bytes"]) == (None, len(body))
            async with session.get(f"{url}/{run['id']}/result", headers=headers | {"If-None-Match": tag}) as answer:
                assert answer.status == 304
            async with session.head(f"{url}/{run['id']}/result", headers=headers) as answer:
                assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(body)))
            async with session.get(f"{url}/{run['id']}/result?org=other", headers=headers) as answer:
                assert answer.status == 404
            async with session.get(f"{url}/{run['id']}/result") as answer:
                assert answer.status == 401
        failed = await client.call("POST", "/api/v1/workflows/fail/runs?wait=60", body={"input": {}}, status=200)
        assert "failed" in str(await client.call("GET", f"/api/v1/runs/{failed['id']}/result", status=404))
        await client.call("GET", "/api/v1/runs/none/result", status=404)


async def test_a_result_over_the_limit_fails_with_both_figures(up: Up) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        await client.put_file("large.py", WORKFLOWS)
        asked = {"input": {"size": 65 << 20}}
        run = await client.call("POST", "/api/v1/workflows/text/runs?wait=60", body=asked, status=200)
        assert (run["status"], run["reason"], run["result"]) == ("failed", "limit", None)
        assert str((65 << 20) + 2) in run["error"]["message"]
        assert str(64 << 20) in run["error"]["message"]
