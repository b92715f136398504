"""Triage of new issues: suggested by their words, decided by a person, done once."""

from dataclasses import dataclass

from github_triage.labels import split, suggested
from millrace import AskTimeout, ask, connections, log, step, variables, workflow

github = connections.client("github")
DAYS = 86_400


@dataclass
class Triage:
    """What is done with the issue.

    Args:
        labels: Other labels than the suggested ones, with commas between them.
        reply: What is written below the issue; nothing where it is empty.
    """

    labels: str = ""
    reply: str = ""


@workflow(name="triage-issue", timeout=60, retries=3)
async def triage_issue(event: dict, to: str = "developer", days: float = 3) -> dict:
    """Suggest labels for an issue, and put them on once somebody has approved.

    Args:
        to: Who is asked: a role, `user:` and a login, or `key:` and a name.
        days: How long that may take; then the issue gets the label `needs-triage`.
    """
    issue, repository = event["data"]["issue"], event["data"]["repository"]["full_name"]
    number, title = issue["number"], issue["title"][:200]
    labels = await step("suggest", suggest, f"{issue['title']}\n{issue['body'] or ''}")
    log.info("triage.suggested", repository=repository, issue=number, labels=labels)
    try:
        question = f"Label {repository}#{number}, {title!r}, with {', '.join(labels)}?\n{issue['html_url']}"
        answer = await ask(question, form=Triage, to=[to], timeout=days * DAYS, remind=DAYS)
    except AskTimeout:
        await step("label", put_on, repository, number, ["needs-triage"])
        return {"labels": ["needs-triage"], "by": None}
    if not answer.approved:
        return {"labels": [], "by": answer.by}
    chosen = split(answer.form.labels) or labels
    await step("label", put_on, repository, number, chosen)
    if answer.form.reply:
        await step("reply", reply_to, repository, number, answer.form.reply)
    return {"labels": chosen, "by": answer.by}


async def suggest(text: str) -> list[str]:
    """Return the labels for a text by the rules as they are now; a later attempt finds the same."""
    return suggested(text, await variables.aget("github-triage.rules"))


async def put_on(repository: str, number: int, labels: list[str]) -> None:
    """Add labels to an issue. Those that it has stay: doing it twice is doing it once."""
    reply = await github.apost(f"/repos/{repository}/issues/{number}/labels", json={"labels": labels})
    reply.raise_for_status()


async def reply_to(repository: str, number: int, text: str) -> int:
    """Write below an issue; return the comment's id."""
    reply = await github.apost(f"/repos/{repository}/issues/{number}/comments", json={"body": text})
    return reply.raise_for_status().json()["id"]
