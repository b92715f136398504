"""What the declarations of endpoints say of permissions, as a page, and what is said of each endpoint elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.permissions import page
from tests.support.most_statements import MOST, PROBES

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"


def test_the_page_of_permissions_is_current() -> None:
    assert PAGE.read_text("utf-8") == page(ENDPOINTS), "python -m services.gateway.api.permissions > docs/permissions.md"


def test_every_endpoint_says_how_many_statements_it_may_take() -> None:
    assert {one.name for one in ENDPOINTS} ^ (MOST.keys() | PROBES) == set(), "tests/support/most_statements.py"


def test_nothing_but_the_address_and_the_header_says_which_organization_is_meant() -> None:
    """What is for keys of the platform alone, which act in every organization, may name one elsewhere."""
    tenants = [one for one in ENDPOINTS if not one.platform]
    given = [(one.name, struct) for one in tenants for struct in (one.query, one.body, one.documented)]
    structs = [(name, struct) for name, struct in given if isinstance(struct, type) and issubclass(struct, msgspec.Struct)]
    assert len(structs) > 50
    named = {"org", "orgs", "organization", "actor", "requested_by", "everything"}
    assert [(name, struct.__name__) for name, struct in structs if named & set(struct.__struct_encode_fields__)] == []
