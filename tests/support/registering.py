"""Senders' APIs for subscriptions on a loopback address, as they are documented: Microsoft Graph's, GitHub's and Stripe's.

They misbehave as they are documented to, where a test asks for it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlencode

import aiohttp
from aiohttp import web

from tests.support.encrypting import encrypted, size_of
from tests.support.web import served

TOKEN = "eyJ0-a-token-of-the-tenant"
# Seconds that Graph waits for the answer to a validation.
VALIDATED_WITHIN = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SenderServer:
    """What both have: tokens, answers that a test wants in place of the next ones, and requests that hang."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens = {TOKEN}
        self.asked: list[tuple[str, str]] = []
        self.made: dict[str, dict[str, Any]] = {}
        # Answers in place of the next ones, by method: a status and headers; and with "" those of any.
        self.answers: list[tuple[str, int, dict[str, str]]] = []
        # Methods whose requests are carried out and not answered while this is set.
        self.unanswered: set[str] = set()
        self.free = asyncio.Event()
        self.session: aiohttp.ClientSession

    def counted(self) -> Counter[str]:
        """Return how often each method was asked for."""
        return Counter(method for method, _ in self.asked)

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse wrong tokens, answer as the test wants, and hang where it wants that."""
        self.asked.append((request.method, request.path_qs))
        if request.headers.get("Authorization") not in {f"Bearer {token}" for token in self.tokens}:
            return self.refusal(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
        for number, (method, status, headers) in enumerate(self.answers):
            if method in {"", request.method}:
                del self.answers[number]
                return self.refusal(status, "Made", "as the test wants", headers)
        answer = await handler(request)
        if request.method in self.unanswered:
            await self.free.wait()
        return answer

    def refusal(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        """Return an error as this sender writes it."""
        raise NotImplementedError

    def routes(self) -> list[web.RouteDef]:
        """Return the sender's endpoints."""
        raise NotImplementedError


class Graph(SenderServer):
    """Subscriptions of Microsoft Graph: validated before they are answered, unique, and ended by time."""

    def __init__(self) -> None:
        super().__init__()
        self.validated: list[str] = []
        # Seconds before a callback is validated; the longest life, and the life that is given in place of the one asked for.
        self.validates_after = 0.0
        self.longest = 4230 * 60.0
        self.gives: float | None = None
        self.unique = True
        self.page = 100

    def refusal(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        one = "/v1.0/subscriptions/{id}"
        return [
            web.post("/v1.0/subscriptions", self.create),
            web.get("/v1.0/subscriptions", self.list),
            web.patch(one, self.renew),
            web.delete(one, self.delete),
        ]

    def there(self) -> dict[str, dict[str, Any]]:
        """Return the subscriptions that have not ended."""
        now = datetime.now(UTC)
        return {id_: one for id_, one in self.made.items() if datetime.fromisoformat(one["expirationDateTime"]) > now}

    async def create(self, request: web.Request) -> web.Response:
        given = await request.json()
        lacking = {"changeType", "notificationUrl", "resource", "expirationDateTime"} - given.keys()
        if lacking:
            return self.refusal(400, "InvalidRequest", f"{sorted(lacking)} is a required property")
        if len(given.get("clientState", "")) > 128:
            return self.refusal(400, "InvalidRequest", "clientState is longer than 128 characters")
        if given.get("includeResourceData"):
            try:
                size = size_of(given["encryptionCertificate"])
            except (KeyError, ValueError) as error:
                return self.refusal(400, "InvalidRequest", f"encryptionCertificate is no base64 X.509 certificate: {error}")
            if not 2048 <= size <= 4096 or not 0 < len(given.get("encryptionCertificateId", "")) <= 128:
                return self.refusal(400, "InvalidRequest", "Certificate must have a key of 2048 to 4096 bits, and an id")
        if too_long := self.too_long(given):
            return too_long
        same = {id_ for id_, one in self.there().items() if all(one[name] == given[name] for name in ("changeType", "resource"))}
        if same and self.unique:
            return self.refusal(409, "Conflict", f"Subscription Id {same.pop()} already exists for the requested combination")
        for name in ("notificationUrl", "lifecycleNotificationUrl"):
            if name in given and not await self.validates(given[name]):
                why = (
                    "Subscription validation request failed. Notification endpoint must respond with 200 OK to validation request."
                )
                return self.refusal(400, "ValidationError", why)
        id_ = str(uuid.uuid4())
        self.made[id_] = given | {"id": id_, "expirationDateTime": self.ends(given)}
        return web.json_response(self.shown(id_), status=201)

    async def list(self, request: web.Request) -> web.Response:
        ids, first = sorted(self.there()), int(request.query.get("$skiptoken", "0"))
        more = (
            {"@odata.nextLink": f"{self.url}/subscriptions?$skiptoken={first + self.page}"} if first + self.page < len(ids) else {}
        )
        return web.json_response({"value": [self.shown(id_) for id_ in ids[first : first + self.page]]} | more)

    async def renew(self, request: web.Request) -> web.Response:
        id_, given = request.match_info["id"], await request.json()
        if id_ not in self.there():
            return self.refusal(404, "ResourceNotFound", "The object was not found.")
        if too_long := self.too_long(given):
            return too_long
        self.made[id_] |= {"expirationDateTime": self.ends(given)}
        return web.json_response(self.shown(id_))

    async def delete(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.there():
            return self.refusal(404, "ResourceNotFound", "The object was not found.")
        del self.made[request.match_info["id"]]
        return web.Response(status=204)

    def shown(self, id_: str) -> dict[str, Any]:
        """Return a subscription as it is answered: nobody is told its clientState."""
        return self.made[id_] | {"clientState": None, "applicationId": "app", "encryptionCertificate": None}

    def too_long(self, given: dict[str, Any]) -> web.Response | None:
        left = datetime.fromisoformat(given["expirationDateTime"]) - datetime.now(UTC)
        if left.total_seconds() > self.longest:
            return self.refusal(
                400, "ExtensionError", f"Subscription expiration can only be {self.longest / 60:.0f} minutes in the future."
            )
        return None

    def ends(self, given: dict[str, Any]) -> str:
        if self.gives is None:
            return str(given["expirationDateTime"])
        return (datetime.now(UTC) + timedelta(seconds=self.gives)).isoformat().replace("+00:00", "0Z")

    async def validates(self, address: str) -> bool:
        """Ask an address for its validation token, as Graph does."""
        await asyncio.sleep(self.validates_after)
        token = f"Validation: Testing client application reachability for subscription Request-Id: {uuid.uuid4()}"
        self.validated.append(address)
        try:
            async with self.session.post(
                f"{address}?{urlencode({'validationToken': token})}",
                data=b"",
                headers={"Content-Type": "text/plain; charset=utf-8"},
                timeout=aiohttp.ClientTimeout(total=VALIDATED_WITHIN),
            ) as answer:
                text = await answer.text()
                return answer.status == 200 and answer.content_type == "text/plain" and unquote(text) == token
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def notify(self, id_: str, *, content: Any = None, as_of: dict[str, Any] | None = None, **fields: Any) -> int:
        """Send a notification about a subscription, as it is now or was; return how it was answered. `content` is encrypted."""
        one = as_of or self.made[id_]
        if content is not None:
            fields["encryptedContent"] = encrypted(content, one["encryptionCertificate"], one["encryptionCertificateId"])
        item = {"subscriptionId": id_, "clientState": one["clientState"], "tenantId": "t"} | fields
        address = one["lifecycleNotificationUrl" if "lifecycleEvent" in fields else "notificationUrl"]
        async with self.session.post(address, json={"value": [item]}) as answer:
            return answer.status


class GitHub(SenderServer):
    """Webhooks of repositories and organizations: without an end, and unique by their address."""

    def refusal(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        errors = [{"resource": "Hook", "code": "custom", "message": message}]
        return web.json_response({"message": code, "errors": errors}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        return [
            made
            for place in ("/repos/{owner}/{name}/hooks", "/orgs/{owner}/hooks")
            for made in (
                web.post(place, self.create),
                web.get(place, self.list),
                web.patch(place + "/{id}", self.renew),
                web.delete(place + "/{id}", self.delete),
            )
        ]

    async def create(self, request: web.Request) -> web.Response:
        given = await request.json()
        if not request.headers.get("User-Agent"):
            return self.refusal(403, "Forbidden", "Request forbidden by administrative rules.")
        if any(one["config"]["url"] == given["config"]["url"] and one["at"] == request.path for one in self.made.values()):
            return self.refusal(422, "Validation Failed", "Hook already exists on this repository")
        id_ = str(len(self.asked) + 1000)
        self.made[id_] = given | {"at": request.path}
        return web.json_response(self.shown(id_), status=201)

    async def list(self, request: web.Request) -> web.Response:
        ids = [id_ for id_, one in self.made.items() if one["at"] == request.path]
        page = int(request.query.get("page", "1"))
        more = {"Link": f'<{request.url.update_query(page=page + 1)}>; rel="next", <{request.url}>; rel="last"'}
        # One to a page: what is asked for is a most.
        return web.json_response([self.shown(id_) for id_ in ids[page - 1 : page]], headers=more if page < len(ids) else {})

    async def renew(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if id_ not in self.made:
            return self.refusal(404, "Not Found", "Not Found")
        self.made[id_] |= await request.json()
        return web.json_response(self.shown(id_))

    async def delete(self, request: web.Request) -> web.Response:
        if self.made.pop(request.match_info["id"], None) is None:
            return self.refusal(404, "Not Found", "Not Found")
        return web.Response(status=204)

    def shown(self, id_: str) -> dict[str, Any]:
        """Return a webhook as it is answered: its id is a number, and nobody is told its secret."""
        one = self.made[id_]
        return one | {"id": int(id_), "type": "Repository", "config": one["config"] | {"secret": "********"}}


class Stripe(SenderServer):
    """Webhook endpoints: asked by forms, each with a secret that is told once, and tested by its first event at once."""

    def __init__(self) -> None:
        super().__init__()
        # How often each secret was told, what is left out of answers, and how the first events were answered.
        self.told: Counter[str] = Counter()
        self.tells = True
        self.first: list[int] = []
        self._sending: set[asyncio.Task[None]] = set()

    def refusal(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        place = "/v1/webhook_endpoints"
        one = place + "/{id}"
        return [web.post(place, self.create), web.get(place, self.list), web.post(one, self.renew), web.delete(one, self.delete)]

    async def create(self, request: web.Request) -> web.Response:
        fields, refused = await self.fields(request, {"url", "enabled_events", "api_version", "connect"})
        if refused is not None or not {"url", "enabled_events"} <= fields.keys():
            return refused or self.refusal(400, "parameter_missing", "Missing required param: enabled_events.")
        id_ = f"we_{uuid.uuid4().hex}"
        self.made[id_] = fields | {"id": id_, "status": "enabled", "secret": f"whsec_{uuid.uuid4().hex}"}
        self._sending.add(asyncio.create_task(self.begin(id_)))
        if not self.tells:
            return web.json_response(self.shown(id_))
        self.told[self.made[id_]["secret"]] += 1
        return web.json_response(self.shown(id_) | {"secret": self.made[id_]["secret"]})

    async def list(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self.shown(id_) for id_ in self.made], "has_more": False})

    async def renew(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if id_ not in self.made:
            return self.refusal(404, "resource_missing", f"No such webhook endpoint: '{id_}'")
        fields, refused = await self.fields(request, {"url", "enabled_events", "disabled"})
        if refused is not None:
            return refused
        self.made[id_] |= fields | {"status": "disabled" if fields.pop("disabled", None) == "true" else "enabled"}
        return web.json_response(self.shown(id_))

    async def delete(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if self.made.pop(id_, None) is None:
            return self.refusal(404, "resource_missing", f"No such webhook endpoint: '{id_}'")
        return web.json_response({"id": id_, "object": "webhook_endpoint", "deleted": True})

    async def fields(self, request: web.Request, known: set[str]) -> tuple[dict[str, Any], web.Response | None]:
        """Return a form's fields, those of a list as one; or the refusal of another body, or an unknown field."""
        found: dict[str, Any] = {}
        if request.content_type != "application/x-www-form-urlencoded":
            return found, self.refusal(400, "parameter_unknown", "Invalid request (is it a form?)")
        for name, value in (await request.post()).items():
            if name.endswith("[]"):
                found.setdefault(name.removesuffix("[]"), []).append(value)
            else:
                found[name] = value
        unknown = found.keys() - known
        return found, self.refusal(400, "parameter_unknown", f"Received unknown parameter: {unknown}") if unknown else None

    def shown(self, id_: str) -> dict[str, Any]:
        """Return an endpoint as it is answered but when it is made: nobody is told its secret."""
        return {name: value for name, value in self.made[id_].items() if name != "secret"} | {"object": "webhook_endpoint"}

    async def begin(self, id_: str) -> None:
        """Send the first event at once, and again until it is taken."""
        event = f"evt_{id_}"
        while id_ in self.made and (not self.first or self.first[-1] not in {200, 202}):
            self.first.append(await self.notify(id_, event))
            await asyncio.sleep(0.05)

    async def notify(self, id_: str, event: str, secret: str | None = None) -> int:
        """Send an event, signed as the endpoint's are or by another secret; return how it was answered."""
        one, now = self.made[id_], int(datetime.now(UTC).timestamp())
        body = json.dumps({"id": event, "type": "invoice.paid", "data": {"object": {"id": "in_1"}}})
        signature = hmac.new((secret or one["secret"]).encode(), f"{now}.{body}".encode(), "sha256").hexdigest()
        headers = {"Stripe-Signature": f"t={now},v1={signature}", "Content-Type": "application/json; charset=utf-8"}
        async with self.session.post(one["url"], data=body, headers=headers) as answer:
            return answer.status


class Acme(SenderServer):
    """Webhooks of a sender of whom Millrace knows nothing: wrapped in its answers, replaced by PUT, and ended by time."""

    def __init__(self) -> None:
        super().__init__()
        self.gives = 3600.0

    def refusal(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response({"error": code, "message": message}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        one = "/shops/{shop}/hooks/{id}"
        place = one.removesuffix("/{id}")
        return [web.post(place, self.create), web.get(place, self.list), web.put(one, self.renew), web.delete(one, self.delete)]

    async def create(self, request: web.Request) -> web.Response:
        id_ = str(uuid.uuid4())
        own = {"id": id_, "at": request.path, "api": request.headers["X-Api"], "key": uuid.uuid4().hex}
        self.made[id_] = own | await request.json() | self.ends()
        return web.json_response({"hook": self.made[id_]}, status=201)

    async def list(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": {"hooks": [*self.made.values()]}})

    async def renew(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if id_ not in self.made:
            return self.refusal(404, "Not Found", "there is no such hook")
        self.made[id_] |= await request.json() | self.ends()
        return web.json_response({"hook": self.made[id_]})

    async def delete(self, request: web.Request) -> web.Response:
        self.made.pop(request.match_info["id"], None)
        return web.Response(status=204)

    def ends(self) -> dict[str, str]:
        """Return when a hook ends that is made now."""
        return {"until": (datetime.now(UTC) + timedelta(seconds=self.gives)).isoformat()}


@asynccontextmanager
async def serving(server: SenderServer, base: str = "") -> AsyncIterator[None]:
    """Serve one for the block; its address is then its `url`."""
    app = web.Application(middlewares=[server.around])
    app.router.add_routes(server.routes())
    async with served(app) as url, aiohttp.ClientSession() as server.session:
        server.url = url + base
        try:
            yield
        finally:
            server.free.set()


@asynccontextmanager
async def graph() -> AsyncIterator[Graph]:
    """Serve Microsoft Graph's subscriptions for the block."""
    server = Graph()
    async with serving(server, "/v1.0"):
        yield server


@asynccontextmanager
async def github() -> AsyncIterator[GitHub]:
    """Serve GitHub's webhooks for the block."""
    server = GitHub()
    async with serving(server):
        yield server


@asynccontextmanager
async def stripe() -> AsyncIterator[Stripe]:
    """Serve Stripe's webhook endpoints for the block."""
    server = Stripe()
    async with serving(server, "/v1"):
        yield server


@asynccontextmanager
async def acme() -> AsyncIterator[Acme]:
    """Serve Acme's webhooks for the block."""
    server = Acme()
    async with serving(server):
        yield server
