"""The page of permissions, as endpoints declare them: `python -m services.gateway.api.permissions > docs/permissions.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import path_of
from services.gateway.api.endpoint import Endpoint
from services.gateway.principals import ROLES

HEAD = """\
# Permissions

Made of the declarations of the endpoints by `python -m services.gateway.api.permissions`: what stands here is what is enforced.
[Identity](identity.md) says what a key and a user are, and how each is made.

Of the roles each may do what those before it may: {roles}.
A key acts in its own organization alone, a user in each with the role there, and a role in `global` is one in every one. A key with
scopes may call what has one of them. *platform*: takes a role in `global`. *whole*: for no key with scopes. *every caller*, *every
user*: about who calls, and so whatever the role. *delegates*: what is asked for takes the role and the scopes of its own endpoint.
"""
TABLE = """
## {tag}

| | least role | scopes |
|---|---|---|
"""


def page(endpoints: Iterable[Endpoint]) -> str:
    """Return the page in Markdown: endpoints with a role by group, then those that need no key."""
    declared = tuple(endpoints)
    keyed = [one for one in declared if one.role is not None]
    made = HEAD.format(roles=" < ".join(f"`{role}`" for role in ROLES))
    for tag in dict.fromkeys(one.tag for one in keyed):
        made += TABLE.format(tag=tag) + "".join(_row(one) for one in keyed if one.tag == tag)
    made += "\n## Without a key\n\n"
    return made + "".join(f"- {_called(one)}\n" for one in declared if one.role is None)


def _called(endpoint: Endpoint) -> str:
    return f"`{'ANY' if endpoint.method == '*' else endpoint.method} {path_of(endpoint)}`"


def _row(endpoint: Endpoint) -> str:
    if endpoint.own is not None:
        return f"| {_called(endpoint)} | *every {endpoint.own}* | |\n"
    marks = [
        name
        for name, is_so in (("platform", endpoint.platform), ("whole", endpoint.whole), ("delegates", endpoint.delegates))
        if is_so
    ]
    scopes = ", ".join(f"`{one}`" for one in endpoint.scopes({"name": "{name}"} if "name" in endpoint.parts else {}))
    role = ", ".join([f"`{endpoint.role}`", *(f"*{mark}*" for mark in marks)])
    return f"| {_called(endpoint)} | {role} | {'' if endpoint.whole or endpoint.delegates else scopes} |\n"


if __name__ == "__main__":
    sys.stdout.write(page(ENDPOINTS))
