"""Triage of issues, against a GitHub that the test answers for."""

from github_triage.labels import split, suggested
from github_triage.triage import triage_issue

from millrace import Reply, testing

RULES = {"bug": ["crash", "error"], "documentation": ["docs"]}
ISSUE = "/repos/acme/app/issues/7"
EVENT = {
    "data": {
        "issue": {"number": 7, "title": "Crash at start", "body": "see the docs", "html_url": "https://github.com/acme/app/issues/7"},
        "repository": {"full_name": "acme/app"},
    }
}


def triaged(*approvals, answers=None, **given):
    """Run the workflow with what somebody answers."""
    github = {f"POST {ISSUE}/labels": [], f"POST {ISSUE}/comments": {"id": 1}} if answers is None else answers
    return testing.run(
        triage_issue,
        {"event": EVENT, **given},
        connections={"github": "a-token-of-github"},
        variables={"github-triage.rules": RULES},
        approvals={"ask": list(approvals)},
        answers={"github": github},
    )


def sent(outcome):
    return [(one.path, one.json()) for one in outcome.sent]


def test_suggested_labels_are_put_on_once_somebody_approves():
    outcome = triaged({})
    assert outcome.value() == {"labels": ["bug", "documentation"], "by": "test"}
    assert sent(outcome) == [(f"{ISSUE}/labels", {"labels": ["bug", "documentation"]})]
    (question,) = outcome.questions
    assert "acme/app#7" in question.prompt
    assert question.to == ["developer"]


def test_whoever_answers_may_choose_others_and_reply():
    outcome = triaged({"labels": "bug, bug ,core", "reply": "Thank you!"})
    assert outcome.value()["labels"] == ["bug", "core"]
    assert sent(outcome) == [(f"{ISSUE}/labels", {"labels": ["bug", "core"]}), (f"{ISSUE}/comments", {"body": "Thank you!"})]


def test_nothing_is_done_where_it_is_refused():
    outcome = triaged(False)
    assert (outcome.value(), outcome.sent) == ({"labels": [], "by": "test"}, [])


def test_an_issue_that_nobody_looks_at_is_marked():
    outcome = triaged()
    assert outcome.value() == {"labels": ["needs-triage"], "by": None}
    assert sent(outcome) == [(f"{ISSUE}/labels", {"labels": ["needs-triage"]})]


def test_a_later_attempt_labels_and_asks_nobody_again():
    away = triaged({}, answers={f"POST {ISSUE}/labels": Reply(502)})
    assert (away.status, away.error.type) == ("failed", "StatusError")
    again = testing.run(
        triage_issue,
        {"event": EVENT},
        connections={"github": "a-token-of-github"},
        steps=away.steps,
        answers={"github": {f"POST {ISSUE}/labels": []}},
    )
    assert again.value() == {"labels": ["bug", "documentation"], "by": "test"}


def test_words_are_whole_words():
    assert suggested("ERROR: no route", RULES) == ["bug"]
    assert suggested("terrorised documents", RULES) == ["question"]
    assert split(" a,, b ,a") == ["a", "b"]
