"""Previews of one organization leave room for those of others."""

from __future__ import annotations

import contextlib

import pytest

from services.events.previews import EACH, PLACES, PreviewRoom
from shared.errors import TooMany


def test_an_organization_has_so_many_previews_at_a_time_and_another_one_its_own() -> None:
    room = PreviewRoom()
    under_way = [room.entered("mean") for _ in range(EACH)]
    for one in under_way:
        one.__enter__()
    with pytest.raises(TooMany), room.entered("mean"):
        pass
    with room.entered("other"):
        pass
    under_way[0].__exit__(None, None, None)
    with room.entered("mean"):
        pass


def test_two_organizations_together_leave_room_for_a_third() -> None:
    room = PreviewRoom()
    with contextlib.ExitStack() as under_way:
        for _ in range(PLACES):
            for org in ("mean", "meaner"):
                with contextlib.suppress(TooMany):
                    under_way.enter_context(room.entered(org))
        under_way.enter_context(room.entered("other"))
    # Each had its own again.
    with room.entered("meaner"), room.entered("meaner"):
        pass
