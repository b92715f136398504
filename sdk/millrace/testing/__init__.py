"""Runs a workflow in this process, with fakes for the platform, or an adapter on a request. For an author's tests.

    from millrace import testing

    outcome = testing.run(sync_ticket, {"event": {"data": {"id": 7}}}, connections={"halopsa": "a-token"})
    assert outcome.value() == {"count": 1}

Input, result, steps and errors go through the code that a real run goes through: an input that does not fit, a result that
is not JSON and a step that is there already are met here as they are there. The sandbox itself is not here: no walls, no
proxy, no time-out, no lines from `print`, which goes where it always goes.
"""

from millrace.testing.adapters import Received, receive, recorded
from millrace.testing.options import options
from millrace.testing.outcome import Event, Failure, Line, Outcome, Question, Sent, Signalled, Started, Waiting
from millrace.testing.play import run

__all__ = [
    "Event",
    "Failure",
    "Line",
    "Outcome",
    "Question",
    "Received",
    "Sent",
    "Signalled",
    "Started",
    "Waiting",
    "options",
    "receive",
    "recorded",
    "run",
]
