"""`sources test`: every step of a recorded request, the reason where a signature fails, and never a secret."""

from __future__ import annotations

import base64
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tests.integration.test_gateway import answering, stream
from tests.integration.test_sources import Api, house
from tests.support.servers import Place

SECRET = "whsec_the-secret-of-this-source"
BODY = b'{"id": "evt_1", "type": "invoice.paid", "name": "J\\u00e9r\\u00f4me"}'


def stripe(body: bytes = BODY, *, secret: str = SECRET, stamp: int | None = None) -> dict[str, str]:
    stamp = int(time.time()) if stamp is None else stamp
    signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, "sha256").hexdigest()
    return {"Stripe-Signature": f"t={stamp},v1={signature}", "Content-Type": "application/json"}


async def trial(call: Api, name: str, headers: dict[str, str], body: bytes = BODY, **fields: Any) -> dict[str, Any]:
    recorded = {
        "headers": [{"name": name, "value": value} for name, value in headers.items()],
        "body_base64": base64.b64encode(body).decode(),
    } | fields
    status, answer = await call("POST", f"/sources/{name}/test", recorded)
    assert status == 200, answer
    assert SECRET not in msgspec.json.encode(answer).decode()
    found: dict[str, Any] = answer
    return found


def failing(answer: dict[str, Any]) -> str:
    return " / ".join(step["detail"] for step in answer["steps"] if not step["passes"])


async def test_a_genuine_request_passes_every_step_and_leaves_nothing(place: Place) -> None:
    async with house(place) as call, answering(place, "executor", {}):
        await call("PUT", "/sources/pay", {"adapter": "stripe", "settings": {"secret": SECRET}})
        for name, body in {
            "paid": {"event": "invoice.*", "workflow": "not-there-yet"},
            "other": {"event": "invoice.paid", "workflow": "w", "filter": "event.data.id == 'evt_2'"},
            "none": {"event": "push", "workflow": "w"},
        }.items():
            status, _ = await call("PUT", f"/subscriptions/{name}", {"source": "pay"} | body)
            assert status == 200
        answer = await trial(call, "pay", stripe())
        assert [(step["step"], step["passes"]) for step in answer["steps"]] == [
            (name, True) for name in ("address", "signature", "delivery", "events")
        ]
        assert answer["status"] == 202
        assert "calls it evt_1" in answer["steps"][2]["detail"]
        (event,) = answer["events"]
        outcomes = {one["subscription"]: (one["outcome"], one["reason"]) for one in event["outcomes"]}
        assert event["type"] == "invoice.paid"
        assert outcomes["paid"][0] == "unroutable"
        assert outcomes["other"] == ("filtered", "the filter of other does not let it pass")
        assert "none" not in outcomes
        assert await stream(place, "WEBHOOKS") == await stream(place, "EVENTS") == await stream(place, "RUNS") == []


async def test_a_signature_that_fails_says_why(place: Place) -> None:
    now = datetime.now(UTC)
    compact = msgspec.json.encode(msgspec.json.decode(BODY))
    early = stripe(stamp=int(now.timestamp()) - 7200)
    json_type = {"Content-Type": "application/json"}
    cases: list[tuple[dict[str, str], bytes, dict[str, Any], str]] = [
        (stripe(secret="another"), BODY, {}, "another secret made it, or the body or another part"),
        (stripe(secret=SECRET + "\n"), BODY, {}, "lacks a line's end that the sender has"),
        (stripe(), BODY + b"\n", {}, "has a line's end at its end that was not signed"),
        (stripe(BODY + b"\n"), BODY, {}, "the line's end at its end is missing"),
        (stripe(), compact, {}, "its JSON was read and written anew"),
        (stripe(compact), BODY, {}, "its JSON was read and written anew"),
        (stripe(b"a\nb"), b"a\r\nb", {}, "lines end in CR LF, and did not"),
        (early, BODY, {}, "s before the time of this test, and 300 s are allowed; the signature itself is right"),
        (stripe(), BODY, {"at": (now - timedelta(hours=1)).isoformat()}, "s after the time of this test"),
        (stripe(secret="another", stamp=1700000000), BODY, {}, "another secret made it"),
        (json_type, BODY, {}, "there is no stripe-signature header"),
        ({"X-Hub-Signature-256": "sha256=00"}, BODY, {}, "there is no stripe-signature header; there is x-hub-signature-256"),
        ({"Stripe-Signature": f"t={int(now.timestamp())},v1=abc"}, BODY, {}, "form: v1= and 64 characters of hex are expected"),
        ({"Stripe-Signature": "v1=" + "0" * 64}, BODY, {}, "no timestamp"),
        (stripe(secret="another") | {"Content-Length": "3"}, BODY, {}, "Content-Length says 3"),
        (stripe(), BODY, {"method": "PUT"}, "this source takes POST"),
        (stripe() | {"Content-Encoding": "gzip"}, BODY, {}, "not to be compressed"),
    ]
    async with house(place) as call:
        await call("PUT", "/sources/pay", {"adapter": "stripe", "settings": {"secret": SECRET}})
        for headers, body, fields, said in cases:
            answer = await trial(call, "pay", headers, body, **fields)
            assert said in failing(answer), (said, failing(answer))
            assert answer["status"] in {401, 405, 415}


async def test_an_address_or_a_key_of_another_form_is_recognized(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/square", {"adapter": "square", "settings": {"secret": SECRET}})
        answer = await trial(call, "square", {})
        url = answer["steps"][0]["detail"].partition(" ")[0].replace("http://", "https://")
        signature = base64.b64encode(hmac.new(SECRET.encode(), url.encode() + BODY, "sha256").digest()).decode()
        answer = await trial(call, "square", {"X-Square-HmacSha256-Signature": signature})
        assert "it is for the address https://" in failing(answer), failing(answer)
        encoded = base64.b64encode(b"the key").decode()
        await call("PUT", "/sources/encoded", {"adapter": "hmac", "settings": {"secret": encoded}})
        answer = await trial(call, "encoded", {"X-Signature": hmac.new(b"the key", BODY, "sha256").hexdigest()})
        assert "stands for as base64" in failing(answer)
        assert encoded not in str(answer)


async def test_what_is_no_webhook_has_its_steps_too(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/drop", {"adapter": "dropbox", "settings": {"secret": SECRET}})
        answer = await trial(call, "drop", {}, b"", method="GET", query="challenge=abc")
        assert (answer["status"], answer["steps"][-1]["step"], answer["events"]) == (200, "handshake", [])
        await call("PUT", "/sources/lab", {"adapter": "gitlab", "settings": {"secret": SECRET}})
        answer = await trial(call, "lab", {"X-Gitlab-Token": "another"})
        assert failing(answer).endswith("does not match: the sender has another one than the source")
        await call("PUT", "/sources/topic", {"adapter": "topic"})
        assert (await trial(call, "topic", {}))["status"] == 404
        await call("PUT", "/sources/off", {"adapter": "github", "settings": {"secret": SECRET}, "enabled": False})
        answer = await trial(call, "off", {})
        assert (answer["status"], failing(answer)) == (404, "this webhook address is switched off")
        await call("PUT", "/sources/git", {"adapter": "github", "settings": {"secret": SECRET}})
        signature = "sha256=" + hmac.new(SECRET.encode(), b"{", "sha256").hexdigest()
        answer = await trial(call, "git", {"X-Hub-Signature-256": signature, "X-GitHub-Event": "push"}, b"{")
        assert "cannot be read" in failing(answer)
        for body, path in (({"body_base64": "%"}, "body_base64"), ({"at": "now"}, "at"), ({"method": "get"}, "method")):
            status, problem = await call("POST", "/sources/git/test", body)
            assert (status, problem["errors"][0]["path"]) == (422, path)
        assert (await call("POST", "/sources/nobody/test", {}))[0] == 404
