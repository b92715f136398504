"""Onboarding, against a Microsoft Graph and a Slack that the test answers for."""

from urllib.parse import parse_qs

import pytest
from new_employee.directory import alias
from new_employee.welcome import welcome_person

from millrace import Reply, testing

PERSON = {
    "given_name": "Ada",
    "family_name": "Lovelace",
    "department": "Sales",
    "manager": "grace@example.com",
    "starts_at": "2026-02-02T08:00:00Z",
}
VARIABLES = {
    "onboarding.domain": "example.com",
    "onboarding.groups": {"Sales": ["g1", "g2"]},
    "onboarding.channels": {"Sales": ["C1"]},
}
ADDRESS = "ada.lovelace@example.com"
PASS = "Pass-0123456789"
GRAPH = {
    f"GET /users/{ADDRESS}": Reply(404),
    "POST /users": {"id": "u1"},
    "POST /groups/g1/members/$ref": None,
    "POST /groups/g2/members/$ref": None,
    "POST /users/u1/authentication/temporaryAccessPassMethods": {"temporaryAccessPass": PASS},
}


def slack(*, ada_after=0):
    """Answer as Slack does; Ada has signed in after so many looks."""
    looks = [0]

    def answer(sent):
        given = {name: values[0] for name, values in parse_qs(sent.content.decode()).items()}
        if sent.path == "/users.lookupByEmail" and given["email"] == ADDRESS:
            looks[0] += 1
            if looks[0] <= ada_after:
                return {"ok": False, "error": "users_not_found"}
            return {"ok": True, "user": {"id": "U-ada"}}
        if sent.path == "/users.lookupByEmail":
            return {"ok": True, "user": {"id": "U-grace"}} if given["email"] == PERSON["manager"] else {"ok": False, "error": "users_not_found"}
        if sent.path == "/conversations.open":
            return {"ok": True, "channel": {"id": f"D-{given['users']}"}}
        return {"ok": True}

    return answer


def welcomed(person=PERSON, graph=GRAPH, chat=None, **more):
    return testing.run(
        welcome_person,
        {"person": person},
        connections={"graph": "a-token-of-graph", "slack": "a-token-of-slack"},
        variables=VARIABLES,
        answers={"graph": graph, "slack": chat or slack()},
        **more,
    )


def told(outcome):
    """Return what was written in Slack, by channel."""
    posts = [parse_qs(one.content.decode()) for one in outcome.sent if one.path == "/chat.postMessage"]
    return [(one["channel"][0], one["text"][0]) for one in posts]


def test_somebody_has_an_account_groups_channels_and_a_welcome():
    outcome = welcomed()
    assert outcome.value() == {"address": ADDRESS, "user": "u1", "slack": "U-ada"}
    made = next(one for one in outcome.sent if (one.method, one.path) == ("POST", "/users")).json()
    assert (made["userPrincipalName"], made["department"]) == (ADDRESS, "Sales")
    assert [one.path for one in outcome.sent if "/members/" in one.path] == ["/groups/g1/members/$ref", "/groups/g2/members/$ref"]
    assert [channel for channel, _ in told(outcome)] == ["D-U-grace", "D-U-ada"]
    assert len(outcome.slept) == 1


def test_the_pass_reaches_the_manager_and_no_record():
    outcome = welcomed()
    assert PASS in told(outcome)[0][1]
    assert PASS not in str(outcome.steps)
    assert PASS not in str(outcome.lines)
    assert "password" not in str(outcome.steps)


def test_it_waits_until_slack_knows_the_person():
    outcome = welcomed(chat=slack(ada_after=2))
    assert outcome.value()["slack"] == "U-ada"
    assert outcome.slept[1:] == [3600, 3600]


def test_an_account_that_is_there_is_used():
    there = {f"GET /users/{ADDRESS}": {"id": "u1"}} | {name: one for name, one in GRAPH.items() if not name.startswith(("GET", "POST /users "))}
    outcome = welcomed(graph=there)
    assert outcome.value()["user"] == "u1"
    assert ("POST", "/users") not in [(one.method, one.path) for one in outcome.sent]


def test_who_is_a_member_already_is_no_mistake():
    member = GRAPH | {"POST /groups/g1/members/$ref": Reply(400, b"One or more added object references already exist")}
    assert welcomed(graph=member).status == "succeeded"
    wrong = GRAPH | {"POST /groups/g1/members/$ref": Reply(400, b"Invalid object identifier")}
    assert welcomed(graph=wrong).error.type == "StatusError"


def test_a_manager_whom_slack_does_not_know_is_named():
    outcome = welcomed(PERSON | {"manager": "nobody@example.com"})
    assert "nobody@example.com" in outcome.error.message


@pytest.mark.parametrize(
    ("given", "family", "text"), [("Ada", "Lovelace", "ada.lovelace"), ("José María", "Groß", "jose-maria.gross"), ("Zoë", "O'Neil", "zoe.oneil")]
)
def test_addresses_have_plain_letters(given, family, text):
    assert alias(given, family) == text
