"""Asks one sender's API for the resources that have notifications sent. Errors repeat no token and no secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from services.events.adapters.registering import Registering, segment
from services.events.registrations.plan import moment_or_none
from shared.egress.fetching import Fetched, Fetcher
from shared.envelope import utc_now
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, TooMany, Unauthenticated, Unavailable
from shared.values import at, storable, text_of

# Seconds: Graph asks the callback, for 10 s at most, before it answers.
TIMEOUT = 30.0
# Pages of a list that are read: an application may have some thousand subscriptions.
MOST_PAGES = 100
# Characters of a sender's own words, and the places where senders have them.
SHOWN = 300
_WORDS = ("error.message", "errors.0.message", "message", "error_description", "error")
HIDDEN = "[hidden]"


class Remote(msgspec.Struct, frozen=True):
    """A resource at the sender; `secret` is the one that the sender made up for it, where it tells it."""

    id: str
    callback: str
    expires_at: datetime | None
    secret: str | None = None


class SenderApi:
    """One collection of a sender, asked with one token. All methods raise the errors of `_refusal`, `Unavailable`."""

    def __init__(
        self,
        fetcher: Fetcher,
        org: str,
        registering: Registering,
        place: str,
        token: str,
        *,
        connection: str,
        secrets: Sequence[str],
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are those by which the connection sends its token, where it says so."""
        self._fetcher = fetcher
        self._org = org
        self._of = registering
        self._place = place
        self._connection = connection
        self._hidden = [one for one in (token, *secrets) if one]
        self._headers = {
            "Accept": "application/json",
            "User-Agent": "Millrace",
            **registering.headers,
            **(headers or {"Authorization": f"Bearer {token}"}),
        }

    async def create(self, body: Any) -> Remote:
        """Have a resource made."""
        return self._read(await self._ask("POST", self._place, body))

    async def renew(self, id_: str, body: Any) -> Remote:
        """Have a resource go on, with everything that can be changed about it."""
        return self._read(await self._ask(self._of.renew, self._one(id_), body), known=id_)

    async def delete(self, id_: str) -> None:
        """Have a resource removed; one that is gone is."""
        try:
            await self._ask("DELETE", self._one(id_))
        except NotFound:
            return

    async def of(self, path: str) -> list[Remote]:
        """Return the resources that notify an address with this path, at whatever host."""
        found: list[Remote] = []
        url: str | None = self._place + ("" if self._of.next is not None else "?per_page=100")
        for _ in range(MOST_PAGES):
            if url is None:
                break
            answer = await self._ask("GET", url)
            document = _document(answer)
            items = at(document, self._of.items.split(".") if self._of.items else [])
            every = [self._remote(item, None) for item in (items if isinstance(items, list) else ())]
            found += [one for one in every if one.callback.endswith(path)]
            url = self._next(document, answer, url)
        return found

    def _one(self, id_: str) -> str:
        return f"{self._place}/{segment(id_)}"

    def _read(self, answer: Fetched, known: str | None = None) -> Remote:
        found = at(_document(answer), self._of.answer.split(".")) if self._of.answer else _document(answer)
        return self._remote(found, known)

    def _remote(self, item: Any, known: str | None) -> Remote:
        id_ = text_of(at(item, self._of.id.split("."))) or known
        if id_ is None:
            raise Unavailable("the sender's answer names no id", retry_after=None)
        try:
            segment(id_)
        except ValueError as error:
            raise Unavailable("the sender's answer has an id that is none", retry_after=None) from error
        expires = None if self._of.expires is None else moment_or_none(at(item, self._of.expires.split(".")))
        secret = at(item, self._of.secret.split(".")) if self._of.secret else None
        callback = text_of(at(item, self._of.callback.split("."))) or ""
        return Remote(id_, callback, expires, secret if isinstance(secret, str) and secret.strip() else None)

    def _next(self, document: Any, answer: Fetched, url: str) -> str | None:
        """Return the address of a list's next page. The token goes nowhere else: raises `Invalid` for another host's."""
        if self._of.next is not None:
            given = at(document, [self._of.next]) if isinstance(document, dict) else None
        else:
            given = _linked(answer.headers.get("link", ""))
        if not isinstance(given, str) or not given:
            return None
        following = urljoin(url, given)
        if urlsplit(following)[:2] != urlsplit(self._place)[:2]:
            raise Invalid("the sender's list goes on at another host")
        return following

    async def _ask(self, method: str, url: str, body: Any = None) -> Fetched:
        kind = "application/x-www-form-urlencoded" if self._of.form else "application/json"
        headers = self._headers if body is None else self._headers | {"Content-Type": kind}
        document = None if body is None else urlencode(_fields("", body)).encode() if self._of.form else msgspec.json.encode(body)
        answer = await self._fetcher.send(self._org, method, url, headers=headers, body=document, timeout=TIMEOUT)
        if 200 <= answer.status < 300:
            return answer
        raise self._refusal(answer)

    def _refusal(self, answer: Fetched) -> MillraceError:
        """Return the error of an answer; its detail says what can be done."""
        status, words = answer.status, self._words(answer)
        said = f"the sender answered {status}" + (f": {words}" if words else "")
        wait = _retry_after(answer.headers)
        if status == 429 or (wait is not None and status in {403, 503}):
            return TooMany(f"{said}; it is asked again when it says so", retry_after=wait)
        if status in {408, 425} or status >= 500:
            return Unavailable(said, retry_after=None)
        if status == 401:
            return Unauthenticated(f"{said}; put a token that it takes into connection {self._connection!r}")
        error: type[MillraceError] = {403: PermissionDenied, 404: NotFound, 410: NotFound, 409: Conflict}.get(status, Invalid)
        advice = self._of.advice.get(status)
        return error(said + (f"; {advice}" if advice else ""))

    def _words(self, answer: Fetched) -> str:
        try:
            document = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        found = (at(document, path.split(".")) for path in _WORDS)
        words = " - ".join(dict.fromkeys(one for one in found if isinstance(one, str)))
        for secret in self._hidden:
            words = words.replace(secret, HIDDEN)
        return " ".join(storable(words).split())[:SHOWN]


def _fields(name: str, value: Any) -> list[tuple[str, str]]:
    """Return the fields of a form: of a list `name[]` for each item, of an object `name[member]`."""
    if isinstance(value, dict):
        return [pair for member, one in value.items() for pair in _fields(f"{name}[{member}]" if name else member, one)]
    if isinstance(value, list):
        return [pair for one in value for pair in _fields(f"{name}[]", one)]
    return [(name, value if isinstance(value, str) else msgspec.json.encode(value).decode())]


def _document(answer: Fetched) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable("the sender's answer is no JSON", retry_after=None) from error


def _linked(header: str) -> str | None:
    """Return the address of the next page in a header `Link` (RFC 8288)."""
    for part in header.split(","):
        address, *parameters = part.split(";")
        if any(one.strip().replace('"', "") == "rel=next" for one in parameters):
            return address.strip().removeprefix("<").removesuffix(">")
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, None where it does not."""
    given = headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        return float(given[:9])
    try:
        if given:
            moment = parsedate_to_datetime(given)
            return max((moment.replace(tzinfo=moment.tzinfo or UTC) - utc_now()).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None
    # GitHub's, where its limit is used up.
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isascii() and reset.isdigit():
        return max(float(reset[:12]) - utc_now().timestamp(), 0.0)
    return None
