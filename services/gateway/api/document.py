"""The OpenAPI document of endpoints, made from their declarations alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from services.gateway.api.access import COOKIE, CSRF, HOST_COOKIE
from services.gateway.api.endpoint import PARTS, Endpoint, Header, Reply, Streamed
from shared.errors import AddressTooLong, MethodNotAllowed, MillraceError, TooMany, Unauthenticated, Unavailable
from shared.http import PROBLEM_JSON, ProblemDocument
from shared.schemas import portable

BEARER, SESSION = "platformKey", "session"
ORG = {
    "name": "org",
    "in": "query",
    "description": "The organization that is meant; else that of the key, or `default`. The header `X-Millrace-Org` says the same.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
ANY_ORG = ORG | {
    "description": "The organization that is meant, or, with a key of `global`, `*` for all; else that of the key, or `default`. "
    "The header `X-Millrace-Org` says the same.",
    "schema": {"type": "string", "pattern": r"^([A-Za-z0-9_-]{1,64}|\*)$"},
}
# Headers of an error's answer.
TOLD: dict[type[MillraceError], Header] = {
    Unauthenticated: Header("WWW-Authenticate", "How to authenticate."),
    MethodNotAllowed: Header("Allow", "The methods that are taken."),
    TooMany: Header("Retry-After", "Seconds.", int),
    Unavailable: Header("Retry-After", "Seconds.", int),
}
# The parts of a path in examples.
USUAL = {
    "id": "0199f2c4-8a3b-7c5d-9e1f-2a4b6c8d0e1f",
    "name": "orders",
    "org": "acme",
    "path": "flows/tickets.py",
    "stream": "AUDIT",
    "code": "BCDF-GHJK",
}
# Of endpoints that take any method: those that senders use.
ANY = ("get", "post")


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    declared = tuple(endpoints)
    schemas = _Schemas(declared)
    refusals = dict.fromkeys(error for endpoint in declared for error in endpoint.refusals())
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in declared:
        path = paths.setdefault(path_of(endpoint), {})
        for method in methods_of(endpoint):
            path[method] = _operation(endpoint, method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace",
            "version": version("millrace"),
            "description": "Webhooks in, sandboxed Python workflows out. Errors are problem documents (RFC 9457).",
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in declared)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {error.__name__: _refusal(error, schemas) for error in refusals},
            "securitySchemes": {
                BEARER: {"type": "http", "scheme": "bearer", "description": "A key, `mr_…`."},
                SESSION: {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": f"A user's session in a browser; behind HTTPS the cookie is `{HOST_COOKIE}`. A change shows "
                    f"the `csrf` of `/api/v1/me` as `{CSRF}` besides.",
                },
            },
        },
    }


def path_of(endpoint: Endpoint) -> str:
    """Return an endpoint's path as the document has it: without the patterns of its parts."""
    return "/".join(part.partition(":")[0] + "}" if ":" in part else part for part in endpoint.path.split("/"))


def methods_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the methods that the document shows."""
    return ANY if endpoint.method == "*" else (endpoint.method.lower(),)


class _Schemas:
    """The JSON Schemas of every type that endpoints declare, those of structs as components."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        types: list[Any] = [ProblemDocument, *PARTS.values(), *(header.schema for header in TOLD.values())]
        for endpoint in endpoints:
            types += [body_of(endpoint), *(reply.body for reply in endpoint.replies().values())]
            types += [header.schema for header in _headers(endpoint)]
            if endpoint.query is not None:
                types += [field.type for field in msgspec.structs.fields(endpoint.query)]
        found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self.components: dict[str, Any] = portable(components)
        self._by_type = list(zip(types, map(portable, found), strict=True))

    def of(self, type_: Any) -> dict[str, Any]:
        """Return the schema of a declared type."""
        if type_ is bytes:
            return {"type": "string", "format": "binary"}
        return next(schema for one, schema in self._by_type if one == type_)


def body_of(endpoint: Endpoint) -> Any:
    """Return the type of the body that the document shows, None where there is none."""
    if endpoint.is_direct:
        return Any if endpoint.takes_body else None
    return endpoint.documented or (bytes if endpoint.body is Streamed else endpoint.body)


def _headers(endpoint: Endpoint) -> Iterator[Header]:
    yield from endpoint.headers
    for reply in endpoint.replies().values():
        yield from reply.headers


def _operation(endpoint: Endpoint, method: str, schemas: _Schemas) -> dict[str, Any]:
    summary, _, rest = endpoint.doc.partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.name if endpoint.method != "*" else f"{endpoint.name}_{method}",
        "tags": [endpoint.tag],
        "summary": summary.replace("\n", " "),
        "parameters": [*_parameters(endpoint, schemas)],
        "responses": _responses(endpoint, schemas),
    }
    if rest:
        operation["description"] = rest.replace("\n", " ")
    if endpoint.role is not None:
        security: list[dict[str, list[str]]] = [{one: []} for one in (BEARER, SESSION) if one == SESSION or endpoint.own != "user"]
        operation |= {"security": security, "x-role": endpoint.role, "x-platform": endpoint.platform}
    body = body_of(endpoint)
    if method in {"post", "put", "patch"} and body is not None:
        media = "application/octet-stream" if body is bytes else "application/json"
        content: dict[str, Any] = {"schema": schemas.of(body)}
        if endpoint.example.body is not None:
            content["example"] = endpoint.example.body
        operation["requestBody"] = {"content": {media: content}, "required": _has_required(body)}
    return operation


def _has_required(body: Any) -> bool:
    return isinstance(body, type) and issubclass(body, msgspec.Struct) and any(f.required for f in msgspec.structs.fields(body))


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    example = endpoint.example
    for name in endpoint.parts:
        shown = {"name": name, "in": "path", "required": True, "schema": schemas.of(PARTS[name])}
        yield shown | {"example": example.path.get(name, USUAL[name])}
    for field in () if endpoint.query is None else msgspec.structs.fields(endpoint.query):
        schema = dict(schemas.of(field.type))
        shown = {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
        if "description" in schema:
            shown["description"] = schema.pop("description")
        if field.default not in {msgspec.NODEFAULT, None}:
            schema["default"] = field.default
        if field.encode_name in example.query:
            shown["example"] = example.query[field.encode_name]
        yield shown
    if endpoint.role is not None and endpoint.own is None and not endpoint.platform and "org" not in endpoint.parts:
        yield ANY_ORG if endpoint.every_org else ORG
    for header in endpoint.headers:
        shown = {"name": header.name, "in": "header", "description": header.description, "schema": schemas.of(header.schema)}
        if header.name in example.headers:
            shown["example"] = example.headers[header.name]
        yield shown


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    found = {str(status): _response(status, reply, schemas) for status, reply in endpoint.replies().items()}
    for error in endpoint.refusals():
        # A success with the same status (503 of readiness) documents more.
        shown = {"$ref": f"#/components/responses/{error.__name__}"}
        # An address that is too long is refused before it is known whose it is.
        if endpoint.page is not None and error is not AddressTooLong:
            shown = _response(error.status, Reply(str, media="text/html"), schemas)
        found.setdefault(str(error.status), shown)
    return found


def _refusal(error: type[MillraceError], schemas: _Schemas) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": f"{error.title}: {(error.__doc__ or '').partition(chr(10))[0]}",
        "content": {PROBLEM_JSON: {"schema": schemas.of(ProblemDocument)}},
    }
    return shown | ({"headers": _shown_headers((TOLD[error],), schemas)} if error in TOLD else {})


def _response(status: int, reply: Reply, schemas: _Schemas) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if reply.body is not None:
        shown["content"] = {media: {"schema": schemas.of(reply.body)} for media in (reply.media, *reply.other_media)}
    if reply.headers:
        shown["headers"] = _shown_headers(reply.headers, schemas)
    return shown


def _shown_headers(headers: Iterable[Header], schemas: _Schemas) -> dict[str, Any]:
    return {header.name: {"description": header.description, "schema": schemas.of(header.schema)} for header in headers}
