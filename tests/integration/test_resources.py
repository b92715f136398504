"""What every kind of resource promises, whether its truth is in the catalog or sealed in its owner's rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from shared.bus import Bus
from shared.encryption import Keyring
from shared.errors import Conflict, Invalid, Malformed, MillraceError, NotFound, PreconditionFailed
from shared.questions.resources import GetResource, PutResource, Shown, of
from shared.resources import KINDS
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import got, listed, putting, removing, ring
from tests.support.servers import Servers

WRITERS = 6
CROWD = 40
SECRET = "correct-horse-battery"
# Of each kind: fields to begin with, two changes of different fields, and what is shown of them. Where a kind has but one field,
# the other is the set of files that it comes from.
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "source": ({"adapter": "github", "settings": {"secret": SECRET}}, {"enabled": False}, {"integration": "halo"}),
    "subscription": ({"source": "repo", "event": "push", "workflow": "w"}, {"event": "pull"}, {"enabled": False}),
    "integration": ({"config_schema": {"type": "object"}}, {"description": "d"}, {"provider": "p"}),
    "variable": ({"value": {"a": [1, None]}}, {"value": 2}, {"applied_as": "files"}),
    "connection": ({"token": SECRET}, {"token": "another-token"}, {"applied_as": "files"}),
    "secret": ({"value": SECRET}, {"value": "another-value"}, {"applied_as": "files"}),
    "provider": ({"known": "github", "client_id": "c", "client_secret": SECRET}, {"scope_separator": ","}, {"scopes": ["repo"]}),
}
HOSTILE: list[tuple[str, Any]] = [
    ("nul", "a\0b"),
    ("long", "x" * 100_000),
    ("number", 7),
    ("list", [[]]),
    ("object", {"a\0": 1}),
    ("deep", [[[[[[[[[["x"]]]]]]]]]] * 3),
]


class Kept:
    """The owners of all resources, asked as the gateway asks them."""

    def __init__(self, gateway: Bus, owner: Bus, admin: Bus, keyring: Keyring) -> None:
        self.bus = gateway
        self._owner = owner
        self._admin = admin
        self.keyring = keyring

    def putting(self, noun: str, name: str = "one", **given: Any) -> PutResource:
        """Return the command that puts one; `given` is as for `tests.support.resources.putting`."""
        return putting(noun, name, self.keyring, **given)

    async def put(self, noun: str, name: str = "one", **given: Any) -> Shown:
        """Put one."""
        shown: Shown = await self.bus.ask(self.putting(noun, name, **given))
        return shown

    async def remove_as_before(self, name: str) -> None:
        """Remove a source as earlier versions did, whatever refers to it."""
        source, removed = await got(self.bus, "source", name), KINDS["source"].removed
        assert removed is not None
        gone = removed(key=KINDS["source"].key("default", name), id=source.id, name=name, actor="test")
        await self._owner.append(self._owner.seal(gone, org="default"), source.version)

        async def is_gone() -> bool:
            return name not in [one.name for one in (await listed(self.bus, "source"))[0]]

        await eventually(is_gone)

    async def recorded(self) -> int:
        """Return how many messages there are of resources."""
        counts = [(await self._admin.client.jetstream().stream_info(name)).state.messages for name in ("CATALOG", "CONNECTIONS")]
        return sum(counts)

    async def begun(self, noun: str) -> Shown:
        """Return one of a kind as it is to begin with, with what it refers to."""
        if noun == "subscription":
            await self.put("source", "repo", adapter="github", settings={"secret": SECRET})
        if noun == "source":
            await self.put("integration", "halo", config_schema={"type": "object"})
        return await self.put(noun, **KEPT[noun][0])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def owners(servers: Servers) -> AsyncIterator[Kept]:
    async with (
        servers.place() as place,
        running(place, "events"),
        running(place, "oauth"),
        bus_of(place, "gateway") as gateway,
        bus_of(place, "events") as owner,
        bus_of(place, "admin") as admin,
    ):
        yield Kept(gateway, owner, admin, ring(place))


@pytest_asyncio.fixture
async def kept(owners: Kept) -> AsyncIterator[Kept]:
    """The owners, who have nothing; what a test leaves is removed after it."""
    yield owners
    for noun in reversed(KEPT):  # what refers to others first
        for one in (await listed(owners.bus, noun))[0]:
            await owners.bus.ask(removing(noun, one.name))


every_kind = pytest.mark.parametrize("noun", KEPT)


@every_kind
async def test_what_is_so_already_records_nothing(kept: Kept, noun: str) -> None:
    first = await kept.begun(noun)
    before = await kept.recorded()
    again = await kept.put(noun, **KEPT[noun][0])
    patched = await kept.put(noun, **KEPT[noun][0], patch=True)
    empty = await kept.put(noun, patch=True)
    assert [one.change for one in (first, again, patched, empty)] == ["created", "none", "none", "none"]
    assert again.fields == patched.fields == empty.fields == first.fields
    assert await kept.recorded() == before


@every_kind
async def test_a_dry_run_records_nothing_and_says_what_would_be(kept: Kept, noun: str) -> None:
    await kept.begun(noun)
    before = await kept.recorded()
    fields, change, _ = KEPT[noun]
    there = await got(kept.bus, noun, "one")
    created = await kept.put(noun, "two", **fields, dry_run=True)
    changed = await kept.put(noun, **change, patch=True, dry_run=True)
    same = await kept.put(noun, **fields, dry_run=True)
    assert [one.change for one in (created, changed, same)] == ["created", "changed", "none"]
    shown = {field: value for field, value in change.items() if field not in KINDS[noun].secret}
    assert {field: changed.fields[field] for field in shown} == shown
    assert await kept.recorded() == before
    assert await got(kept.bus, noun, "one") == there
    with pytest.raises(NotFound):
        await got(kept.bus, noun, "two")


@every_kind
async def test_changes_of_different_fields_at_once_both_hold(kept: Kept, noun: str) -> None:
    await kept.begun(noun)
    _, one, other = KEPT[noun]
    await asyncio.gather(kept.put(noun, **one, patch=True), kept.put(noun, **other, patch=True))
    held = vars(await got(kept.bus, noun, "one"))
    wanted = {field: value for field, value in (one | other).items() if field not in KINDS[noun].secret}
    assert {field: held[field] for field in wanted} == wanted
    # The secret is what the one made it: it is so already.
    assert (await kept.put(noun, **one, patch=True)).change == "none"


@every_kind
async def test_puts_at_once_without_a_version_get_one_order_and_no_error(kept: Kept, noun: str) -> None:
    await kept.begun(noun)
    fields = KEPT[noun][0]
    shown = await asyncio.gather(*(kept.put(noun, **fields, applied_as=f"set-{number}") for number in range(WRITERS)))
    versions = sorted(one.version for one in shown)
    assert len(set(versions)) == WRITERS
    last = next(one for one in shown if one.version == versions[-1])
    assert vars(await got(kept.bus, noun, "one")) == last.fields


@every_kind
async def test_of_those_that_demand_one_version_one_wins(kept: Kept, noun: str) -> None:
    version = (await kept.begun(noun)).version
    commands = [kept.put(noun, patch=True, applied_as=f"set-{number}", expected=version) for number in range(WRITERS)]
    outcomes = await asyncio.gather(*commands, return_exceptions=True)
    assert [type(one) for one in outcomes if isinstance(one, BaseException)] == [PreconditionFailed] * (WRITERS - 1)
    (won,) = [one for one in outcomes if isinstance(one, Shown)]
    assert vars(await got(kept.bus, noun, "one")) == won.fields


@every_kind
async def test_a_removed_one_comes_back_as_another(kept: Kept, noun: str) -> None:
    first = await kept.begun(noun)
    await kept.bus.ask(removing(noun, "one"))
    with pytest.raises(NotFound):
        await got(kept.bus, noun, "one")
    with pytest.raises(NotFound):
        await kept.bus.ask(removing(noun, "one"))
    assert "one" not in [one.name for one in (await listed(kept.bus, noun))[0]]
    again = await kept.put(noun, **KEPT[noun][0])
    assert again.change == "created"
    assert again.fields["id"] != first.fields["id"]


@every_kind
async def test_the_version_of_a_removed_one_fits_no_later_one_of_its_name(kept: Kept, noun: str) -> None:
    first = await kept.begun(noun)
    for _ in range(2):
        await kept.bus.ask(removing(noun, "one"))
        again = await kept.put(noun, **KEPT[noun][0])
        assert again.version > first.version
        with pytest.raises(PreconditionFailed):
            await kept.put(noun, patch=True, applied_as="files", expected=first.version)
        with pytest.raises(PreconditionFailed):
            await kept.bus.ask(removing(noun, "one", expected=first.version))


@pytest.mark.parametrize("noun", ["source", "variable"])
async def test_an_id_is_no_name_for_a_new_one_and_said_to_be_an_id(kept: Kept, noun: str) -> None:
    id_ = (await kept.begun(noun)).fields["id"]
    for then in ([], [removing(noun, "one")], [kept.putting(noun, **KEPT[noun][0])]):
        for command in then:
            await kept.bus.ask(command)
        with pytest.raises(PreconditionFailed, match=f"'{id_}' is the id of a {noun}") as refused:
            await kept.put(noun, id_, **KEPT[noun][0], expected=0)
        assert [one.path for one in refused.value.errors] == ["name"]


@every_kind
async def test_a_list_takes_no_cursor_of_another_list(kept: Kept, noun: str) -> None:
    for cursor in ("one", "|one", "workflows|one", f"{KINDS[noun].plural}|"):
        with pytest.raises(Malformed) as refused:
            await listed(kept.bus, noun, cursor=cursor)
        assert [one.path for one in refused.value.errors] == ["cursor"]


@pytest.mark.parametrize("noun", ["connection", "secret"])
async def test_a_crowd_of_puts_of_one_name_is_carried_out_whole(kept: Kept, noun: str) -> None:
    (field,) = KINDS[noun].secret
    puts = (kept.put(noun, "of-a-crowd", **{field: f"value number {number}"}) for number in range(CROWD))
    shown = await asyncio.gather(*puts)
    assert sorted(one.version for one in shown) == [*range(1, CROWD + 1)]


@every_kind
async def test_a_command_sent_again_after_others_changed_it_does_nothing_more(kept: Kept, noun: str) -> None:
    await kept.begun(noun)
    first = kept.putting(noun, patch=True, applied_as="first")
    await kept.bus.ask(first)
    await kept.put(noun, patch=True, applied_as="second")
    before = await kept.recorded()
    await kept.bus.ask(first)
    assert await kept.recorded() == before
    assert (await got(kept.bus, noun, "one")).applied_as == "second"


@every_kind
@pytest.mark.parametrize(("_name", "value"), HOSTILE, ids=[name for name, _ in HOSTILE])
async def test_a_hostile_value_in_any_field_is_taken_whole_or_refused_with_its_place(
    kept: Kept, noun: str, _name: str, value: Any
) -> None:
    await kept.begun(noun)
    for field in KINDS[noun].spec.__struct_fields__:
        refused: MillraceError | None = None
        try:
            await kept.put(noun, patch=True, **{field: value})
        except MillraceError as error:
            refused = error
        if refused is not None:
            assert isinstance(refused, Invalid), (field, refused)
            assert [one.path for one in refused.errors if field in one.path], (field, refused, refused.errors)
    # Whatever was taken: the owner answers, and the row is whole.
    await kept.bus.ask(of(GetResource, noun, org="default", name="one"))


@pytest.mark.parametrize("noun", ["source", "connection", "secret"])
async def test_a_secret_is_in_no_answer_and_no_error(kept: Kept, noun: str) -> None:
    shown = await kept.begun(noun)
    said = [msgspec.json.encode(shown).decode(), str(vars(await got(kept.bus, noun, "one"))), str(await listed(kept.bus, noun))]
    bad = {"settings": {"secret": SECRET, "other": 1}} if noun == "source" else {next(iter(KINDS[noun].secret)): f"{SECRET}\n\0"}
    with pytest.raises(Invalid) as refused:
        await kept.put(noun, patch=True, **bad)
    said += [str(refused.value), repr(refused.value.errors)]
    assert not [text for text in said if SECRET in text]


async def test_a_source_is_removed_after_the_subscriptions_that_refer_to_it(kept: Kept) -> None:
    await kept.begun("subscription")
    with pytest.raises(Conflict, match="remove them first: one"):
        await kept.bus.ask(removing("source", "repo"))
    await kept.bus.ask(removing("subscription", "one"))
    await kept.bus.ask(removing("source", "repo"))
    with pytest.raises(NotFound):
        await got(kept.bus, "source", "repo")


async def test_a_reference_by_id_means_what_had_the_name_when_it_was_given(kept: Kept) -> None:
    subscription = await kept.begun("subscription")
    source = await got(kept.bus, "source", "repo")
    await kept.remove_as_before("repo")
    # The subscription still means the source that was removed; putting it again is refused until there is one of that name.
    assert (await got(kept.bus, "subscription", "one")).source == source.id
    with pytest.raises(Invalid):
        await kept.put("subscription", **KEPT["subscription"][0])
    made = await kept.put("source", "repo", adapter="github", settings={"secret": SECRET})
    assert (await got(kept.bus, "subscription", "one")).source == source.id != made.fields["id"]
    again = await kept.put("subscription", **KEPT["subscription"][0])
    assert (again.change, again.fields["source"], again.fields["id"]) == ("changed", made.fields["id"], subscription.fields["id"])


@every_kind
async def test_an_id_means_the_one_that_has_it_and_no_namesake(kept: Kept, noun: str) -> None:
    old = await kept.begun(noun)
    fields, change, _ = KEPT[noun]
    by_id = await kept.put(noun, old.fields["id"], **change, patch=True)
    put = await kept.put(noun, old.fields["id"], **fields)
    assert (by_id.change, by_id.fields["id"], put.fields["id"]) == ("changed", old.fields["id"], old.fields["id"])
    with pytest.raises(PreconditionFailed):
        await kept.put(noun, old.fields["id"], **fields, expected=0)
    await kept.bus.ask(removing(noun, "one"))
    new = await kept.put(noun, **fields)
    for late in (removing(noun, old.fields["id"]), kept.putting(noun, old.fields["id"], **change, patch=True)):
        with pytest.raises(NotFound):
            await kept.bus.ask(late)
    assert new.fields["id"] != old.fields["id"]
    assert (await got(kept.bus, noun, "one")).id == new.fields["id"]
    assert [one.name for one in (await listed(kept.bus, noun))[0]] == ["one"]


async def test_a_patch_leaves_a_reference_that_it_does_not_name_as_it_is(kept: Kept) -> None:
    before = await kept.begun("subscription")
    await kept.remove_as_before("repo")
    off = await kept.put("subscription", enabled=False, patch=True)
    await kept.put("source", "repo", adapter="github", settings={"secret": SECRET})
    on = await kept.put("subscription", enabled=True, patch=True)
    assert off.fields["source"] == on.fields["source"] == before.fields["source"]
    with pytest.raises(Invalid):
        await kept.put("subscription", source="nowhere", patch=True)


async def test_null_in_a_patch_puts_a_whole_object_back_to_its_default(kept: Kept) -> None:
    await kept.put("source", adapter="hmac", settings={"secret": SECRET, "prefix": "p"})
    patched = await kept.put("source", settings=None, patch=True)
    assert (patched.fields["settings"], patched.fields["secrets"]) == ({}, ["secret"])


@pytest.mark.parametrize("member", ["secret", "prefix"])
async def test_the_settings_of_a_source_are_bounded(kept: Kept, member: str) -> None:
    with pytest.raises(Invalid) as refused:
        await kept.put("source", adapter="hmac", settings={"secret": SECRET, member: "x" * 70_000})
    assert [problem.path for problem in refused.value.errors] == ["settings"]
