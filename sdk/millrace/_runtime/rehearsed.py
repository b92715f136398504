"""A module to import for the sake of importing; see `rehearsal`."""

NOTHING: dict[str, int] = {}
