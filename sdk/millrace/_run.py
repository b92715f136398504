"""`run`: what a run may know of itself.

In a workflow:

    from millrace import run, workflow

    @workflow(schedule="0 6 * * *")
    def report() -> None:
        day = (run.scheduled_for or datetime.now(UTC)).date()
"""

from datetime import datetime
from typing import Any

from millrace.errors import NotInRun

job: dict[str, Any] | None = None
"""The job of the run that this process carries out."""


class CurrentRun:
    """The run that reads it. Raises `NotInRun` outside of one."""

    @property
    def id(self) -> str:
        """The run's id: the same in all its attempts."""
        return str(_job()["run"])

    @property
    def scheduled_for(self) -> datetime | None:
        """The time of the schedule that the run comes of, in UTC, however late the run itself is; None where it comes of none.

        Of a schedule that was fired by hand it is the time when that was asked for. Another run of the same input, by
        `millrace runs rerun`, has the time of the first.
        """
        told = _job().get("scheduled_for")
        return None if told is None else datetime.fromisoformat(told)


def _job() -> dict[str, Any]:
    if job is None:
        msg = "a run knows of itself only inside a run"
        raise NotInRun(msg)
    return job


run = CurrentRun()
