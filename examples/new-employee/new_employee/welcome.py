"""From hired to welcome: an account at once, a pass for the manager on the first day, then Slack."""

from datetime import datetime
from typing import NotRequired, TypedDict

from millrace import log, sleep, step, variables, workflow
from new_employee import chat, directory

HOUR = 3600


class Person(TypedDict):
    """Who was hired, and for whom."""

    given_name: str
    family_name: str
    department: str
    manager: str
    starts_at: datetime
    country: NotRequired[str]


@workflow(name="welcome-person", timeout=300, retries=5, concurrency="input.person.given_name + input.person.family_name")
async def welcome_person(person: Person) -> dict:
    """Give somebody an account and groups now, and on the first day a pass by way of the manager, channels and a welcome.

    Args:
        person: `manager` is an address that Slack knows; `starts_at` the moment at which work begins.
    """
    known = {name: value for name, value in person.items() if name != "starts_at"}
    address = await step("address", address_of, known)
    user = await step("account", directory.account, address, known)
    for group in await step("groups", by_department, "onboarding.groups", person["department"]):
        await step("join", directory.join, user, group)
    log.info("person.has_account", address=address)
    await sleep(person["starts_at"])
    manager = await step("manager", chat.member, person["manager"])
    if manager is None:
        raise LookupError(f"Slack knows nobody with the address of the manager, {person['manager']}")
    # One step: a pass is shown once, and stands in no record of the run.
    await step("pass", hand_over, user, address, manager)
    guest = await step("look", chat.member, address)
    while guest is None:
        # Slack makes the account at the first sign-in.
        await sleep(HOUR)
        guest = await step("look", chat.member, address)
    for channel in await step("channels", by_department, "onboarding.channels", person["department"]):
        await step("invite", chat.invite, channel, guest)
    await step("welcome", chat.tell, guest, f"Welcome, {person['given_name']}! <@{manager}> is there for all questions.")
    return {"address": address, "user": user, "slack": guest}


async def address_of(person: dict) -> str:
    """Return the address that an account gets."""
    return f"{directory.alias(person['given_name'], person['family_name'])}@{await variables.aget('onboarding.domain')}"


async def by_department(name: str, department: str) -> list[str]:
    """Return what a variable has for a department; nothing for one that it does not name."""
    return (await variables.aget(name)).get(department, [])


async def hand_over(user: str, address: str, manager: str) -> None:
    """Have the manager told by which pass somebody signs in the first time."""
    made = await directory.first_pass(user)
    await chat.tell(manager, f"{address} signs in the first time with the pass {made}, within eight hours. Please hand it over.")
