"""The page of permissions, as endpoints declare them: `python -m services.gateway.api.permissions > docs/permissions.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from services.gateway.api.access import ROLES
from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import path_of
from services.gateway.api.endpoint import Endpoint

HEAD = """\
# Permissions

Made of the declarations of the endpoints by `python -m services.gateway.api.permissions`: what stands here is what is enforced.
[Identity](identity.md) says what a key is, and how one is made.

Of the roles each may do what those before it may: {roles}.
A key acts in its own organization alone, one of `global` in every one. *platform*: for keys of `global` alone. A key with scopes
may call what has one of them. *whole*: for keys without scopes alone.
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
    marks = [name for name, is_so in (("platform", endpoint.platform), ("whole", endpoint.whole)) if is_so]
    scopes = ", ".join(f"`{one}`" for one in endpoint.scopes({"name": "{name}"} if "name" in endpoint.parts else {}))
    role = ", ".join([f"`{endpoint.role}`", *(f"*{mark}*" for mark in marks)])
    return f"| {_called(endpoint)} | {role} | {'' if endpoint.whole else scopes} |\n"


if __name__ == "__main__":
    sys.stdout.write(page(ENDPOINTS))
