"""The `millrace` command against a whole stack: a new user's way, every exit code, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from millrace.cli.api import Api, Refused
from millrace.cli.deployment import Deployment
from tests.support.command import Command, until_said
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.stack import ROOT, Up

# A key of nobody here: the example of Go's package golang.org/x/mod/sumdb/note.
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE = ROOT / "examples" / "github-push"
WORKFLOWS = """
import os
import time

from millrace import log, workflow


@workflow(name="nap")
def nap(seconds: float = 0.01, note: str = "none") -> dict:
    log.info("napping", seconds=seconds)
    print("\\x1b[31mprinted")
    time.sleep(seconds)
    return {"slept": seconds, "note": note}


@workflow(name="breaks")
def breaks() -> None:
    raise ValueError("as it should")


@workflow(name="slow", timeout=0.5)
def slow() -> None:
    time.sleep(60)


@workflow(name="big")
def big() -> str:
    return "x" * 300_000


@workflow(name="turn", concurrency="workflow")
def turn() -> None:
    time.sleep(30)


@workflow(name="dies")
def dies() -> None:
    os._exit(7)
"""


@pytest_asyncio.fixture
async def naps(up: Up, millrace: Command) -> Path:
    """A folder with the workflows above, deployed."""
    folder = up.data.parent / "naps"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "naps.py").write_text(WORKFLOWS)
    await millrace("deploy", "naps")
    return folder


async def test_a_new_user_gets_from_a_folder_to_a_webhooks_run_and_its_log(millrace: Command) -> None:
    shutil.copytree(EXAMPLE, millrace.place / "github-push")
    said = await millrace("deploy", "github-push")
    assert "sent workflows/summarize_push.py\n" in said
    assert "workflows/summarize_push.py  summarize-push" in said
    (millrace.place / "secret.txt").write_text("It's a Secret\n")
    source = await millrace.json("sources", "put", "repo", "--adapter", "github", "--secret", "secret=secret.txt")
    assert (source["name"], source["secrets"], source["settings"]) == ("repo", ["secret"], {})
    await millrace("subscriptions", "put", "push", "--source", "repo", "--event", "push", "--workflow", "summarize-push")
    send = (
        "hooks",
        "send",
        "--sign",
        "--source",
        "repo",
        "--event",
        "push",
        "--secret-file",
        "secret.txt",
        "github-push/push.json",
    )
    delivery = (await millrace(*send)).strip()

    async def routed() -> Any:
        found = await millrace.json("deliveries", "get", delivery)
        return found["runs"] and found["runs"][0]["status"] == "succeeded" and found

    found: Any = await eventually(routed)
    run = await millrace.json("runs", "get", found["runs"][0]["id"])
    assert (run["workflow"], run["status"], run["delivery"]) == ("summarize-push", "succeeded", delivery)
    assert run["result"]["commits"] == len(json.loads((EXAMPLE / "push.json").read_text())["commits"])

    # The rows and the archive follow the delivery a moment later.
    async def listed() -> bool:
        return f"{run['id']}  summarize-push  succeeded" in await millrace("runs", "list", "--status", "succeeded")

    async def logged() -> bool:
        return "push.received repository=" in await millrace("runs", "logs", run["id"])

    await eventually(listed)
    await eventually(logged)

    async def archived() -> Any:
        rows = await millrace("logs", f"correlation_id:{delivery}", "--since", "1h", "--order", "asc")
        return rows if "run.succeeded" in rows else None

    rows: Any = await eventually(archived)
    assert rows.index("webhook.received") < rows.index("event.routed") < rows.index("run.succeeded")

    said = await millrace("runs", "why", run["id"])
    led = [line.split(" * ")[1].strip("└├│ ").split()[0] for line in said.splitlines() if " * " in line]
    assert led == ["webhook", "event", "subscription", "run"]
    assert f"run {run['id']} succeeded  summarize-push requested by subscription:push\n" in said
    why = await millrace.json("runs", "why", run["id"])
    assert (why["run"], why["path"][0], len(why["path"]), why["path"][-1]) == (run["id"], delivery, 4, run["id"])


async def test_the_same_folder_again_sends_nothing_and_a_changed_file_alone_is_sent(naps: Path, millrace: Command) -> None:
    assert (await millrace.json("deploy", "naps"))["files"] == []
    (naps / "page.html").write_text("<p>")
    done = await millrace.json("deploy", "naps")
    assert [view["path"] for view in done["files"]] == ["page.html"]


async def test_what_is_gone_is_deleted_only_when_that_is_asked_for(naps: Path, millrace: Command) -> None:
    (naps / "old.txt").write_text("x")
    await millrace("deploy", "naps", "--org", "pruned")
    (naps / "old.txt").unlink()
    kept = await millrace.json("deploy", "naps", "--org", "pruned")
    assert (kept["kept"], kept["deleted"]) == (["old.txt"], [])
    pruned = await millrace.json("deploy", "naps", "--prune", "--org", "pruned")
    assert (pruned["kept"], pruned["deleted"]) == ([], ["old.txt"])
    assert [view["path"] for view in (await millrace.json("files", "list", "--org", "pruned"))["items"]] == ["naps.py"]


async def test_what_somebody_else_changed_meanwhile_is_not_overwritten(up: Up, naps: Path, millrace: Command) -> None:
    class Meddled(Api):
        def pages(self, *path: str, **asked: Any) -> Any:
            found = super().pages(*path, **asked)
            with contextlib.closing(Api(up.ready["url"], key=up.ready["admin_key"])) as other:
                other.put_file("page.html", io.BytesIO(b"theirs"), 6, {})
            return found

    (naps / "page.html").write_text("ours")
    with contextlib.closing(Meddled(up.ready["url"], key=up.ready["admin_key"])) as api, pytest.raises(Refused) as raised:
        await asyncio.to_thread(Deployment(api, naps, prune=False).bring, check=False)
    assert raised.value.status == 412
    assert await millrace("files", "get", "page.html") == "theirs"


async def test_a_broken_folder_is_exit_code_1_with_the_place_every_time_and_what_served_goes_on(
    naps: Path, millrace: Command
) -> None:
    (naps / "broken.py").write_text("import os\n\n\ndef f(:\n")
    try:
        for _ in range(2):
            _, error = await millrace.both("deploy", "naps", code=1)
            assert "naps/broken.py:4: SyntaxError" in error
        assert (await millrace.json("deploy", "naps", code=1))["problems"][0]["path"] == "broken.py"
        await millrace("run", "nap", "--wait")
    finally:
        (naps / "broken.py").unlink()
        await millrace("deploy", "naps", "--prune")


async def test_a_warning_has_its_place_every_time_and_leaves_the_exit_code_alone(naps: Path, millrace: Command) -> None:
    (naps / "lazy.py").write_text("from millrace import workflow\n@workflow\ndef lazy():\n    import nowhere\n")
    try:
        for _ in range(2):
            out, error = await millrace.both("deploy", "naps")
            assert "naps/lazy.py:4: warning: nothing provides the module nowhere: name its package" in error
            assert "lazy.py" in out
        (problem,) = (await millrace.json("deploy", "naps"))["problems"]
        assert (problem["path"], problem["line"], problem["severity"]) == ("lazy.py", 4, "warning")
    finally:
        (naps / "lazy.py").unlink()
        await millrace("deploy", "naps", "--prune")


@pytest.mark.parametrize(
    ("workflow", "code", "status"),
    [("nap", 0, "succeeded"), ("breaks", 10, "failed"), ("slow", 11, "timed_out"), ("dies", 12, "crashed")],
)
async def test_the_exit_code_is_how_the_run_ended(naps: Path, millrace: Command, workflow: str, code: int, status: str) -> None:
    run = await millrace.json("run", workflow, "--wait", code=code)
    assert run["status"] == status


async def test_a_cancelled_run_has_its_own_exit_code_and_one_that_goes_on_as_well(naps: Path, millrace: Command) -> None:
    run = await millrace.json("run", "nap", "-i", "seconds=30", "--wait", "0.2", "--key", "once", code=15)
    assert run["status"] in {"queued", "running"}
    assert run["id"] in await millrace("runs", "cancel", run["id"])
    again = await millrace.json("run", "nap", "-i", "seconds=30", "--wait", "--key", "once", code=13)
    assert (again["id"], again["status"]) == (run["id"], "cancelled")


async def test_without_a_wait_the_id_is_printed_and_with_one_the_result(naps: Path, millrace: Command) -> None:
    id_ = (await millrace("run", "nap")).strip()
    assert (await millrace.json("runs", "get", id_))["workflow"] == "nap"
    out, error = await millrace.both("run", "nap", "-i", "note=5", "--input", '{"seconds": 0.02}', "--wait", "30")
    assert json.loads(out) == {"slept": 0.02, "note": "5"}
    assert " nap succeeded in " in error
    rerun = (await millrace("runs", "rerun", id_)).split()
    assert rerun[0] != id_


async def test_many_runs_are_resumed_with_mended_code_by_one_command(naps: Path, millrace: Command) -> None:
    broken = "from millrace import step, workflow\n\n\n@workflow(name='broken')\nasync def broken(n: int) -> int:\n"
    broken += "    found = await step('double', lambda: n * 2)\n"
    (naps / "broken.py").write_text(f"{broken}    raise LookupError(found)\n")
    await millrace("deploy", "naps")
    for number in range(5):
        await millrace("run", "broken", "-i", f"n={number}", "--wait", code=10)
    (naps / "broken.py").write_text(f"{broken}    return found\n")
    await millrace("deploy", "naps")
    many = ("--query", "workflow:broken status:failed,crashed since:1h")
    listed = await millrace.json("runs", "resume", *many, "--dry-run")
    assert [run["status"] for run in listed["items"]] == ["failed"] * 5
    asked = (await millrace.json("runs", "resume", *many, "--rate", "50"))["items"]
    assert [(row["id"], row["outcome"]) for row in asked] == [(run["id"], "asked for") for run in listed["items"]]
    results = [json.loads(await millrace("runs", "result", await _succeeded(millrace, row["run"]))) for row in asked]
    assert results == [0, 2, 4, 6, 8]
    again = await millrace.json("runs", "resume", *many)
    assert again["items"] == [row | {"outcome": "asked for before"} for row in asked], "it starts nothing twice"
    key = ("--key", "once", "--query", f"id:{asked[0]['id']}")
    assert await millrace("runs", "rerun", *key) == await millrace("runs", "rerun", *key)
    skipped = await millrace.json("runs", "cancel", *many)
    assert {row["outcome"] for row in skipped["items"]} == {"skipped"}
    for wrong in ("", "workflow", "colour:red", "status:failed status:crashed", "since:yesterday"):
        await millrace("runs", "cancel", "--query", wrong, code=2)
    await millrace("runs", "cancel", code=2)


async def _succeeded(millrace: Command, run: str) -> str:
    async def has() -> bool:
        return bool((await millrace.json("runs", "get", run))["status"] == "succeeded")

    await eventually(has, every=0.2)
    return run


async def test_a_large_result_is_told_with_the_command_that_prints_it(naps: Path, millrace: Command) -> None:
    out, error = await millrace.both("run", "big", "--wait", "60")
    assert out == ""
    assert "its result has 300002 bytes: `millrace runs result " in error
    id_ = error.split()[1]
    assert json.loads(await millrace("runs", "result", id_)) == "x" * 300_000
    small = await millrace.json("run", "nap", "--wait")
    assert json.loads(await millrace("runs", "result", small["id"])) == small["result"]
    failed = await millrace.json("run", "breaks", "--wait", code=10)
    assert "the run has no result: it is failed" in (await millrace.both("runs", "result", failed["id"], code=1))[1]


async def test_a_wait_that_is_over_says_what_the_run_waits_for(naps: Path, millrace: Command) -> None:
    first = (await millrace("run", "turn")).strip()
    second = (await millrace.both("run", "turn", "--wait", "3", code=15))[1]
    assert " turn waiting (blocked on concurrency)" in second
    for id_ in (second.split()[1], first):
        await millrace("runs", "cancel", id_)


async def test_a_runs_lines_come_on_standard_error_while_the_result_stays_alone(naps: Path, millrace: Command) -> None:
    out, error = await millrace.both("run", "nap", "--logs", "--input", "-", given='{"note": "from stdin"}')
    assert json.loads(out)["note"] == "from stdin"
    assert "napping seconds=0.01" in error
    assert "\\x1b[31mprinted" in error
    assert "\x1b" not in error


async def test_a_failed_runs_error_shows_the_authors_line(naps: Path, millrace: Command) -> None:
    out, error = await millrace.both("run", "breaks", "--wait", code=10)
    assert out == ""
    assert "ValueError: as it should" in error
    assert 'raise ValueError("as it should")' in error
    shown = await millrace("runs", "get", error.split()[1])
    assert shown.endswith("ValueError: as it should\n")


async def test_a_followed_run_is_followed_to_its_end(naps: Path, millrace: Command) -> None:
    id_ = (await millrace("run", "nap", "-i", "seconds=1")).strip()
    said = await millrace("runs", "logs", "-f", id_)
    assert "napping" in said
    assert (await millrace.json("runs", "get", id_))["status"] == "succeeded"


async def test_a_run_is_waited_for_over_a_restart_of_the_gateway(up: Up, naps: Path, millrace: Command) -> None:
    async with millrace.started("run", "nap", "-i", "seconds=4", "--logs", "--output", "json") as process:
        await until_said(process.stderr, "napping")
        os.kill(up.read()["services"]["gateway"], signal.SIGKILL)
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["status"]) == (0, "succeeded")
    await up.until_ready_again()


async def test_followed_logs_show_each_new_row_once_until_interrupted(naps: Path, millrace: Command) -> None:
    await millrace("run", "nap", "-i", "note=before", "--wait")
    async with millrace.started("logs", "type:run.requested", "-f", "--output", "json") as following:
        ids: list[str] = []

        async def followed() -> bool:
            # What is asked for before the first look is no news: so one more is asked for until one is told.
            ids.append((await millrace("run", "nap")).strip())
            assert following.stdout is not None
            try:
                async with asyncio.timeout(2):
                    told.append(json.loads(await following.stdout.readline()))
            except TimeoutError:
                return False
            return True

        told: list[Any] = []
        await eventually(followed)
        last = (await millrace("run", "nap")).strip()
        while told[-1]["run"] != last:
            told.append(json.loads(await until_said(following.stdout, "run.requested")))
        following.send_signal(signal.SIGINT)
        out, error = await following.communicate()
    assert following.returncode == 130
    assert (out, error.strip()) == (b"", b"")
    runs = [row["run"] for row in told]
    assert runs == [*ids[ids.index(runs[0]) :], last]


async def test_watch_deploys_a_saved_file_shows_its_problem_with_the_line_and_the_next_runs_lines(
    naps: Path, millrace: Command
) -> None:
    async with millrace.started("watch", "naps") as watching:
        await until_said(watching.stdout, "deployed naps")
        (naps / "naps.py").write_text(
            WORKFLOWS + '\n\n@workflow(name="fresh")\ndef fresh() -> str:\n    log.info("fresh line")\n    return "new"\n'
        )
        assert "fresh" in await until_said(watching.stdout, "deployed naps:")
        assert "new" in await millrace("run", "fresh", "--wait")
        shown = await until_said(watching.stdout, "fresh", "fresh line")
        # What is shown of the id is enough to ask for it.
        [begin] = re.findall(r"^  fresh ([0-9a-f-]+)  .*fresh line", shown, re.MULTILINE)
        assert (await millrace.json("runs", "get", begin))["workflow"] == "fresh"
        await until_said(watching.stdout, "fresh succeeded")
        (naps / "naps.py").write_text("def f(:\n")
        await until_said(watching.stderr, "naps/naps.py:1: SyntaxError")
        (naps / "naps.py").write_text(WORKFLOWS)
        await until_said(watching.stdout, "deployed naps:", "nap")
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 130


async def test_links_out_of_a_folder_are_left_out_and_told_by_deploy_and_watch(up: Up, naps: Path, millrace: Command) -> None:
    (up.data.parent / "private.txt").write_text("do not upload")
    (naps / "out.txt").symlink_to(up.data.parent / "private.txt")
    (naps / "in.txt").symlink_to(naps / "naps.py")
    (naps / "round").symlink_to(naps)
    os.mkfifo(naps / "pipe")
    output, error = await millrace.both("deploy", "naps")
    assert "sent in.txt" in output
    assert "left out: naps/out.txt is a link to outside of the folder" in error
    assert "left out: naps/pipe is not a file" in error
    assert {"path": "round", "reason": "is a link to a folder"} in (await millrace.json("deploy", "naps"))["left_out"]
    files = {item["path"] for item in (await millrace.json("files", "list"))["items"]}
    assert not files & {"out.txt", "pipe", "round/naps.py"}
    async with millrace.started("watch", "naps") as watching:
        await until_said(watching.stderr, "left out: naps/out.txt")
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 130


async def test_the_beginning_of_an_id_is_enough_and_why_ends_with_the_error(naps: Path, millrace: Command) -> None:
    run = (await millrace("run", "breaks")).strip()
    ended = await millrace.json("run", "breaks", "--wait", code=10)
    assert ended["status"] == "failed"

    async def told() -> bool:
        return (await millrace.json("runs", "get", run[:30]))["status"] == "failed"

    await eventually(told)
    output = await millrace("runs", "why", run[:30])
    assert output.splitlines()[-1] == "ValueError: as it should"
    assert f"{run} failed (error)" in output
    _, error = await millrace.both("runs", "get", "zzz", code=1)
    assert "zzz" in error


async def test_a_line_is_found_by_its_fields_and_its_workflow_and_shown_with_them(naps: Path, millrace: Command) -> None:
    await millrace("run", "nap", "-i", "seconds=0.125", "--wait")

    async def found() -> str:
        return await millrace("logs", "workflow:nap fields.seconds:0.125")

    output = str(await eventually(found))
    assert output.rstrip().endswith("napping seconds=0.125")
    [item] = (await millrace.json("logs", "data.seconds:>0.12 data.seconds:<0.13"))["items"]
    assert (item["workflow"], item["fields"], item["message"]) == ("nap", {"seconds": 0.125}, "napping")
    _, error = await millrace.both("logs", "seconds:0.125", code=1)
    assert "position 1" in error
    assert "fields.seconds" in error


async def test_entities_are_listed_shown_and_deleted(millrace: Command) -> None:
    await millrace("connections", "put", "halopsa", "--token-file", "-", given="tok_secret\n")
    assert "halopsa" in await millrace("connections", "list")
    shown = await millrace("connections", "get", "halopsa", "--output", "json")
    assert "tok_secret" not in shown
    await millrace("connections", "delete", "halopsa")
    _, error = await millrace.both("connections", "get", "halopsa", code=1)
    assert error == "millrace: there is no connection 'halopsa'\n"
    shown = await millrace("secrets", "put", "signing.key", "--value-file", "-", given="sec_value\n")
    assert "signing.key" in shown
    assert "signing.key" in await millrace("secrets", "list")
    assert "sec_value" not in shown + await millrace("secrets", "get", "signing.key", "--output", "json")
    _, error = await millrace.both("secrets", "put", "other", code=2)
    assert error == "millrace secrets put: value is a secret: give it in a file, or by standard input with `-`.\n"
    await millrace("secrets", "delete", "signing.key")
    _, error = await millrace.both("secrets", "get", "signing.key", code=1)
    assert error == "millrace: there is no secret 'signing.key'\n"
    for given, value in (("5", 5), ("eu", "eu"), ('{"a": [null]}', {"a": [None]}), ("true", True)):
        assert (await millrace.json("variables", "put", "given", given))["value"] == value
    assert (await millrace.json("variables", "put", "given", "5", "--text"))["value"] == "5"
    assert '"5"' in await millrace("variables", "list")
    await millrace("variables", "delete", "given")
    body = '{"adapter": "hmac", "settings": {"secret": "x", "event_path": "kind"}}'
    await millrace("sources", "put", "signed", "--body", "-", given=body)
    changed = await millrace.json("sources", "put", "signed", "--adapter", "hmac", "--set", "event_path=type", "--disabled")
    assert (changed["settings"]["event_path"], changed["enabled"], changed["secrets"]) == ("type", False, ["secret"])
    assert {row["name"] for row in (await millrace.json("adapters"))["items"]} >= {"github", "hmac", "standard-webhooks", "topic"}
    await millrace("sources", "delete", "signed")
    assert "signed" not in await millrace("sources", "list")


async def test_an_integration_is_mapped_and_a_topic_has_events(millrace: Command) -> None:
    schema = '{"type": "object", "properties": {"pages": {"type": "integer"}, "subdomain": {"type": "string"}}}'
    await millrace("integrations", "put", "halo", "--org", "global", "--schema", "-", "--description", "tickets", given=schema)
    assert "tickets" in await millrace("integrations", "list")
    made = await millrace.json("integrations", "map", "halo", "--set", "pages=5", "--set", "subdomain=7", "--entity-id", "42")
    assert (made["org"], made["config"], made["entity_id"]) == ("default", {"pages": 5, "subdomain": "7"}, "42")
    await millrace("integrations", "map", "halo", "--config", "{}", "--org", "beta")
    assert "42" in await millrace("integrations", "mapping", "halo")
    listed = await millrace.json("integrations", "mappings", "halo", "--org", "*")
    assert [one["org"] for one in listed["items"]] == ["beta", "default"]
    _, error = await millrace.both("integrations", "map", "halo", "--set", "pages=x", code=1)
    assert "config.pages" in error
    await millrace("integrations", "unmap", "halo", "--org", "beta")
    _, error = await millrace.both("integrations", "mapping", "halo", "--org", "beta", code=1)
    assert error.startswith("millrace: there is no mapping of integration 'halo' for organization 'beta': put it with PUT ")
    await millrace("sources", "put", "orders", "--adapter", "topic", "--integration", "halo")
    delivery = (await millrace("sources", "emit", "orders", "order.paid", "--data", '{"n": 1}')).strip()

    async def told() -> bool:
        found = await millrace.json("deliveries", "list", "--source", "orders")
        return [(one["id"], one["type"], one["status"]) for one in found["items"]] == [(delivery, "order.paid", "filtered")]

    await eventually(told)


async def test_hooks_are_signed_as_the_source_demands_and_a_repeat_is_told(millrace: Command) -> None:
    (millrace.place / "whsec.txt").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    (millrace.place / "body.json").write_text('{"type": "ticket.created"}')
    await millrace("sources", "put", "standard", "--adapter", "standard-webhooks", "--secret", "secret=whsec.txt")
    send = ("hooks", "send", "--sign", "--source", "standard", "body.json", "--delivery", "one")
    first = await millrace.json(*send, "--secret-file", "whsec.txt")
    _, error = await millrace.both(*send, MILLRACE_HOOK_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert "there already" in error

    async def told() -> bool:
        found = await millrace.json("deliveries", "list", "--source", "standard")
        return [(one["id"], one["type"]) for one in found["items"]] == [(first["id"], "ticket.created")]

    await eventually(told)
    _, error = await millrace.both(*send, MILLRACE_HOOK_SECRET="whsec_AAAA", code=1)
    assert "webhook-signature header does not match" in error
    retried = await millrace.json("deliveries", "retry", first["id"])
    assert retried["id"] == first["id"]
    # One that is given takes the place of the one that is made, however it is written: it does not stand twice.
    again = await millrace.json(*send, "--secret-file", "whsec.txt", "-H", "content-type: application/json")
    assert again["id"] == first["id"]


async def test_a_misfit_is_one_sentence_that_names_the_path(naps: Path, millrace: Command) -> None:
    out, error = await millrace.both("run", "nap", "-i", "seconds=long", code=1)
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("millrace: ")
    assert "(input.seconds" in error
    _, error = await millrace.both("logs", "((", code=1)
    assert "(q" in error
    _, error = await millrace.both("sources", "put", "repo2", "--adapter", "github", "--set", "secret=seen", code=2)
    assert "--secret secret=FILE" in error
    _, error = await millrace.both("deliveries", "list", "--status", "bogus", code=1)
    assert error == "millrace: status is none of accepted, deferred, held, routed, filtered, unroutable, dead\n"
    _, error = await millrace.both("run", "nap", "--at", "soon", code=2)
    assert "--at takes a time, +1h (from now)" in error


async def test_audit_tells_what_was_done_by_this_command(naps: Path, millrace: Command) -> None:
    async def told() -> Any:
        return (await millrace.json("audit", "type:audit.commit", "--since", "1h"))["items"]

    rows: Any = await eventually(told)
    assert {row["stream"] for row in rows} == {"AUDIT"}


async def test_an_export_of_the_archive_is_verified_and_names_what_was_changed(up: Up, naps: Path, millrace: Command) -> None:
    await millrace("run", "nap", "--wait")

    async def is_sealed() -> bool:
        found = await millrace.json("audit", "digests")
        return all(one["size"] for one in found["items"] if one["stream"] in {"AUDIT", "RUNS"})

    await eventually(is_sealed, within=60, every=0.5)
    streams = ("--stream", "AUDIT", "--stream", "RUNS")
    folder, copy = up.data.parent / "export", up.data / "logs" / "digests"
    key = (await millrace("audit", "key")).split()[0]
    assert "verify it with: millrace audit verify" in await millrace("audit", "export", str(folder), *streams)
    exported = _size_of(folder / "runs")
    await millrace("run", "nap", "--wait")

    async def has_grown() -> bool:
        return _size_of(copy / "runs") > exported

    await eventually(has_grown, within=60, every=0.5)
    said = await millrace("audit", "verify", str(folder), "--copy", str(copy))
    assert re.search(r"AUDIT: [1-9][0-9]* messages sealed, .*: as sealed", said)
    assert re.search(r"RUNS: .*, [1-9][0-9]* sealed after this export: as sealed", said)
    own = ("audit", "verify", str(folder), "--output", "json")
    assert key.startswith("millrace/")
    assert '"kind":"forged"' in await millrace(*own, "--key", VERIFIER, code=1)
    connection = await asyncpg.connect(up.read()["database_url"])
    try:
        await connection.execute("DELETE FROM logs.message WHERE stream = 'RUNS' AND seq = 1")
    finally:
        await connection.close()
    await millrace("audit", "export", str(folder), *streams)
    said = await millrace("audit", "verify", str(folder), code=1)
    assert "RUNS 1: missing: no row is left" in said
    assert "holds no export" in (await millrace.both("audit", "verify", str(up.data), code=2))[1]


async def test_what_a_run_printed_is_erased_on_request_and_the_proof_stays_whole(up: Up, naps: Path, millrace: Command) -> None:
    run = (await millrace("run", "nap", "-i", "note=forget-me", "--wait", "--output", "json")).strip()
    id_ = json.loads(run)["id"]
    folder, copy = up.data.parent / "erased", up.data / "logs" / "digests"
    streams = ("--stream", "AUDIT", "--stream", "LINES")

    async def is_sealed() -> bool:
        found = await millrace.json("audit", "digests")
        return all(one["size"] for one in found["items"] if one["stream"] in {"AUDIT", "LINES"})

    await eventually(is_sealed, within=60, every=0.5)
    await millrace("audit", "export", str(folder), *streams)
    asked = ("audit", "erase", f"stream:LINES run:{id_}", "--since", "1h", "--reason", "request 17")

    def is_done(out: bytes) -> bool:
        return re.search(rb"[1-9] messages? erased, 0 kept", out) is not None

    _, error = await millrace.both(*asked, code=130, given="n\n")
    assert "Erase them for good?" in error
    async with millrace.started("audit", "-f", "type:audit.erased", "--org", "*", "--output", "json") as following:

        async def erased() -> bool:
            async with millrace.started(*asked, "--yes") as process:
                out, _ = await process.communicate()
            return is_done(out)

        # It is kept until it is sealed, which is said with the number of those that are kept.
        await eventually(erased, within=60, every=0.5)
        # A record of another one is told as well, should the first have come before the first look.
        assert following.stdout is not None
        other = (await millrace("run", "nap", "--wait", "--output", "json")).strip()
        again = ("audit", "erase", f"stream:LINES run:{json.loads(other)['id']}", "--since", "1h", "--reason", "r", "--yes")

        async def told() -> bool:
            async with millrace.started(*again) as process:
                out, _ = await process.communicate()
            return is_done(out)

        await eventually(told, within=60, every=0.5)
        async with asyncio.timeout(60):
            record = json.loads(await following.stdout.readline())
    assert (record["stream"], record["data"]["target"]) == ("AUDIT", "LINES")
    assert await millrace("logs", f"forget-me stream:LINES run:{id_}", "--since", "1h") == ""
    # Into the folder of before, which has the salts of then.
    await millrace("audit", "export", str(folder), *streams)
    said = await millrace("audit", "verify", str(folder), "--copy", str(copy))
    assert re.search(r"LINES: .*, [2-9] erased.*: as sealed", said)


def _size_of(digest: Path) -> int:
    """Return the size that a digest's checkpoint names, on its second line."""
    return int((digest / "checkpoint").read_text().splitlines()[1])


async def test_a_list_is_cut_at_the_limit_and_says_so(naps: Path, millrace: Command) -> None:
    for _ in range(3):
        await millrace("run", "nap")

    async def listed() -> bool:
        return len((await millrace.json("runs", "list", "--limit", "0"))["items"]) >= 3

    await eventually(listed)
    cut = await millrace.json("runs", "list", "--limit", "2")
    assert len(cut["items"]) == 2
    assert cut["next_cursor"] is not None
    _, error = await millrace.both("runs", "list", "--limit", "2")
    assert "there are more" in error


async def test_a_reader_that_goes_away_is_no_error_worth_a_word(naps: Path, millrace: Command) -> None:
    async with millrace.started("logs", "--limit", "0", "--org", "*") as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() in {0, 1}


async def test_the_key_is_in_no_output_and_a_wrong_one_is_refused_without_being_shown(up: Up, millrace: Command) -> None:
    given = {"MILLRACE_URL": up.ready["url"], "MILLRACE_KEY": "mr_wrong"}
    out, error = await millrace.both("runs", "list", code=1, **given)
    assert "mr_wrong" not in out + error
    assert error == "millrace: this key is not known, was revoked, or is over (the key is that of MILLRACE_URL and MILLRACE_KEY)\n"
    config = millrace.place / ".config" / "millrace" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[profiles.here]\nurl = "{up.ready["url"]}"\nkey = "{up.ready["admin_key"]}"\norg = "elsewhere"\n')
    config.chmod(0o600)
    assert await millrace.json("runs", "list", "--profile", "here") == {"items": [], "next_cursor": None}


async def test_doctor_and_rebuild_speak_for_the_stack_with_their_own_exit_codes(up: Up, millrace: Command) -> None:
    out = await millrace("doctor")
    assert "Nothing is wrong." in out
    _, error = await millrace.both("rebuild", "--from", "bus", code=2)
    assert f"pid {up.ready['pid']}" in error


async def test_up_has_the_signals_of_whoever_started_the_command(millrace: Command) -> None:
    with open_folder() as place:
        elsewhere = Command(place)
        async with elsewhere.started("up", "--port", "0", "--unsafe") as process:
            await until_said(process.stdout, "ready http")
            assert json.loads((place / ".millrace" / "ready.json").read_text())["pid"] == process.pid
            await elsewhere("workflows", "list")
            os.kill(process.pid, signal.SIGINT)
            assert await process.wait() == 0
        await elsewhere("workflows", "list", code=2)


async def test_files_are_moved_shown_as_they_were_and_brought_back(millrace: Command, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "notes.txt").write_text(f"version {number}")
        await millrace("files", "put", "data/history/notes.txt", str(tmp_path / "notes.txt"), "-m", f"number {number}")
    await millrace("files", "move", "data/history/", "data/moved/", "-m", "elsewhere")
    await millrace("files", "get", "data/history/notes.txt", code=1)
    shown = await millrace("files", "history", "data/history/notes.txt")
    assert all(said in shown for said in ("number 0", "number 1", "elsewhere", "deleted"))
    kept = (await millrace.json("files", "history", "data/history/notes.txt"))["items"]
    first = kept[-1]["version"]
    assert await millrace("files", "get", "data/history/notes.txt", "--version", first) == "version 0"
    assert "stored data/history/notes.txt" in await millrace("files", "restore", "data/history/notes.txt", "--version", first)
    assert await millrace("files", "get", "data/history/notes.txt") == "version 0"
    whole = await millrace("files", "restore", "--at", kept[0]["at"], "--prefix", "data/history/")
    assert "deleted data/history/notes.txt" in whole
    assert "nothing differs" in await millrace("files", "restore", "--at", kept[0]["at"], "--prefix", "data/history/")
    commits = await millrace("files", "history", "--limit", "4")
    assert "elsewhere" in commits
