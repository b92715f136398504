"""A module with workflows, for rehearsing runs; see `child.prepared`."""

from millrace import workflow


@workflow
def plain() -> int:
    """Do nothing."""
    return 1


@workflow
async def coroutine() -> int:
    """Do nothing on a loop."""
    return 1
