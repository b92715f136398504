"""Subscriptions over the API, with their real owner: refused with the place, warned about, and held against what came."""

from __future__ import annotations

from typing import Any

import pytest

from services.events import previews
from services.gateway.api import subscriptions
from shared.messages.declaration import hashed_key
from shared.questions.workflows import WorkflowEntry
from shared.registry import RegistryWriter
from tests.integration.test_sources import Api, house
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

SCHEMA = {
    "type": "object",
    "properties": {"ref": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["ref"],
    "additionalProperties": False,
}


async def known(place: Place, name: str = "deploy", **fields: Any) -> None:
    """Have an executor say that there is a workflow."""
    entry = WorkflowEntry(
        **{"org": "default", "name": name, "version": "v", "module": "m", "function": "f", "path": "m.py", "line": 1, "doc": ""}
        | {"input_schema": SCHEMA, "timeout": 60.0, "retries": 0, "concurrency": None, "updated_at": "2026-01-01T00:00:00Z"}
        | fields
    )
    async with bus_of(place, "executor") as bus:
        await RegistryWriter(bus.client, "workflows", WorkflowEntry).put(hashed_key(entry.org, name), 1, entry)


async def emit(call: Api, type_: str, data: Any) -> str:
    status, answer = await call("POST", "/sources/orders/events", {"type": type_, "data": data})
    assert status == 202, answer
    return str(answer["id"])


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"filter": "event.data.x =="}, "filter", "line 1, column 16: Syntax error: mismatched input '<EOF>'"),
    ({"filter": "event.data.x &&\n  event.y ==== 3"}, "filter", "line 2, column 13: Syntax error: extraneous input '=='"),
    ({"filter": "evnt.data.x"}, "filter", "there is no evnt: a filter sees event and integration"),
    ({"input": {"a": {"$cel": "1 +"}}}, "input.a", "line 1, column 4: Syntax error"),
    ({"input": {"a": {"$cel": "evnt.x"}}}, "input.a", "there is no evnt: an expression sees event and integration"),
    ({"input": {"a": {"$path": "evnt.x"}}}, "input.a.$path", "is event, or begins with"),
    ({"source": "ordres"}, "source", "there is no source 'ordres'; did you mean 'orders'?"),
    ({"source": "elsewhere"}, "source", "there is no source 'elsewhere'"),
]


async def test_a_mistake_is_refused_with_its_place(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/orders", {"adapter": "topic"})
        for fields, path, said in MISTAKES:
            body = {"source": "orders", "event": "*", "workflow": "w"} | fields
            status, answer = await call("PUT", "/subscriptions/s", body)
            assert status == 422, fields
            [problem] = answer["errors"]
            assert problem["path"] == path
            assert problem["message"].startswith(said)
            assert not problem["message"].endswith("did you mean 'elsewhere'?")


async def test_a_workflow_that_does_not_fit_is_a_warning(place: Place) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/orders", {"adapter": "topic"})
        await known(place)

        async def warned(**fields: Any) -> list[tuple[str, str]]:
            body = {"source": "orders", "event": "*", "workflow": "deploy"} | fields
            status, answer = await call("PUT", "/subscriptions/s", body)
            assert status == 200, answer
            return [(one["path"], one["message"]) for one in answer["warnings"]]

        async def heard() -> bool:
            return "yet" not in (await warned())[0][1]

        await eventually(heard)
        assert await warned(workflow="deplyo") == [("workflow", "there is no workflow 'deplyo' yet; did you mean 'deploy'?")]
        assert await warned(workflow="x") == [("workflow", "there is no workflow 'x' yet")]
        assert await warned() == [
            ("input", "workflow 'deploy' has no parameter 'event'"),
            ("input", "workflow 'deploy' needs the parameter 'ref', which is not given"),
        ]
        assert await warned(input={"ref": "event.type", "limits": 5}) == [
            ("input.limits", "workflow 'deploy' has no parameter 'limits'; did you mean 'limit'?")
        ]
        assert await warned(input={"ref": "event.type"}) == []
        # By what is known when somebody looks.
        await known(place, input_schema={"type": "object"})

        async def gone() -> bool:
            status, answer = await call("GET", "/subscriptions")
            return bool(status == 200 and answer["items"][0]["warnings"] == [])

        await eventually(gone)


async def test_a_preview_says_which_of_the_newest_events_would_run_and_with_what(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(place) as call:
        await call("PUT", "/sources/orders", {"adapter": "topic"})
        await known(place)
        ids = [await emit(call, type_, {"ref": ref}) for type_, ref in (("push", "a"), ("push", "b"), ("other", "c"), ("push", 5))]

        async def listed() -> bool:
            return len((await call("GET", "/deliveries?status=filtered"))[1]["items"]) == 4

        await eventually(listed)
        draft = {
            "source": "orders",
            "event": "push",
            "workflow": "deploy",
            "filter": "event.data.ref != 'a'",
            "input": {"ref": "event.data.ref", "limit": {"$path": "event.data.limit", "$default": 3}},
        }

        async def previewed() -> bool:
            status, answer = await call("POST", "/subscriptions/s/preview", draft)
            return bool(status == 200 and answer["warnings"] == [])

        await eventually(previewed)
        _, answer = await call("POST", "/subscriptions/s/preview", draft)
        found = {one["delivery"]: one["outcome"] for one in answer["events"]}
        assert [one["delivery"] for one in answer["events"]] == ids[::-1]
        assert (found[ids[0]]["outcome"], found[ids[0]]["reason"]) == ("filtered", "the filter of s does not let it pass")
        assert (found[ids[1]]["outcome"], found[ids[1]]["input"]) == ("routed", {"ref": "b", "limit": 3})
        assert found[ids[2]] is None
        assert (found[ids[3]]["outcome"], found[ids[3]]["reason"][:36]) == ("unroutable", "the input does not fit deploy: ref: ")
        assert answer["routed"] == 1
        # Nothing was kept, and nothing ran.
        assert (await call("GET", "/subscriptions/s"))[0] == 404
        assert (await call("POST", "/subscriptions/s/preview", {}))[0] == 404
        assert (await call("PUT", "/subscriptions/s", draft))[0] == 200
        _, answer = await call("POST", "/subscriptions/s/preview?n=2", {"filter": None})
        assert [one["outcome"] and one["outcome"]["outcome"] for one in answer["events"]] == ["unroutable", None]
        assert (await call("GET", "/subscriptions/s"))[1]["filter"] == draft["filter"]
        _, answer = await call("POST", "/subscriptions/s/preview?n=1", {"filter": "event.data.nothing.at == 1"})
        assert answer["events"][0]["outcome"]["outcome"] == "failed"
        assert (await call("POST", "/subscriptions/s/preview", {"filter": "("}))[0] == 422
        assert (await call("POST", "/subscriptions/s/preview", {"no": 1}))[0] == 422
        assert (await call("POST", "/subscriptions/s/preview?n=101", {}))[0] == 422
        assert (await call("POST", "/subscriptions/s/preview?org=other", {}))[0] == 404
        assert all(one["status"] == "filtered" for one in (await call("GET", "/deliveries"))[1]["items"])
        # One that takes too long shows what it came to.
        monkeypatch.setattr(previews, "SECONDS", -1.0)
        _, answer = await call("POST", "/subscriptions/s/preview", {})
        assert (answer["events"], answer["warnings"][-1]["path"]) == ([], "n")


def test_a_preview_takes_an_operator_and_is_recorded() -> None:
    endpoint, _ = subscriptions.ENDPOINTS
    assert (endpoint.role, endpoint.audit is not None) == ("operator", True)
