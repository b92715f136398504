"""Tables are declared as they are migrated: statements are made of the one, and run against the other."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, text

from services.oauth import store as vault
from shared.db import open_engine
from shared.owners import rows
from tests.support.servers import Place

DECLARED: list[tuple[str, MetaData]] = [("events", rows.METADATA), ("oauth", rows.METADATA), ("oauth", vault.METADATA)]


@pytest.mark.parametrize(("service", "declared"), DECLARED)
async def test_the_migrated_tables_are_the_declared_ones(place: Place, service: str, declared: MetaData) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_object": lambda _object, name, type_, _reflected, _other: type_ != "table" or name in declared.tables,
        }
        context = MigrationContext.configure(connection, opts=options)
        collations = connection.execute(
            text("SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_schema = :schema"),
            {"schema": service},
        )
        migrated = {(table, column): collation for table, column, collation in collations}
        wanted = {
            (table.name, column.name): getattr(column.type, "collation", None)
            for table in declared.tables.values()
            for column in table.columns
        }
        unlike = [place for place, collation in wanted.items() if migrated[place] != collation]
        return [*compare_metadata(context, declared), *unlike]

    engine = open_engine(place.database_url(service), service=service)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()
