"""`millrace.testing` runs a workflow in this process, with fakes for what a run is given."""

from flows.greet import greet

from millrace import testing


def test_a_greeting_is_loud_where_that_is_asked_for() -> None:
    outcome = testing.run(greet, {"name": "Ada", "loud": True})
    assert outcome.value() == {"text": "HELLO ADA"}
    assert outcome.steps == {"write": "Hello Ada"}
    assert outcome.lines == [testing.Line("info", "greeted", {"name": "Ada"})]


def test_an_input_that_does_not_fit_fails_the_run() -> None:
    outcome = testing.run(greet, {"nam": "Ada"})
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.type == "InputError"
