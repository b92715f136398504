"""The AsyncAPI document fits the schema that the authors of AsyncAPI publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from shared import asyncapi
from tests.support.peers import install

PEER = Path(__file__).parents[1] / "peers" / "asyncapi"


def test_the_document_fits_the_published_schema_and_one_with_a_slip_does_not() -> None:
    install(PEER)
    schema = json.loads((PEER / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json").read_bytes())
    published = jsonschema_rs.validator_for(schema)
    document: dict[str, Any] = json.loads(json.dumps(asyncapi.document()))
    assert [f"{error.instance_path}: {error.message}" for error in published.iter_errors(document)] == []
    document["channels"]["RunFailed"]["adress"] = "run.*.failed"
    assert not published.is_valid(document)
