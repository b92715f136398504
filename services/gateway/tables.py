"""The tables of the gateway, as its migrations make them."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, Table, Text

from shared.tables import Moment, checkpoint_in, resource_in

metadata = MetaData()
checkpoint = checkpoint_in(metadata)
resource = resource_in(metadata)

# When each key was last used, to a minute or so; no projection.
key_use = Table("key_use", metadata, Column("id", Text, primary_key=True), Column("used_at", Moment, nullable=False))
