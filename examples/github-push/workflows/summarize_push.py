"""What was pushed, by whom, to which branch."""

from millrace import log, step, workflow


@workflow(name="summarize-push", timeout=60)
async def summarize_push(event: dict) -> dict:
    """Summarize a GitHub push."""
    push = event["data"]
    branch = push["ref"].removeprefix("refs/heads/")
    log.info("push.received", repository=push["repository"]["full_name"], branch=branch)
    files = await step("count-files", count_files, push["commits"])
    return {
        "repository": push["repository"]["full_name"],
        "branch": branch,
        "pusher": push["pusher"]["name"],
        "commits": len(push["commits"]),
        "files_changed": files,
    }


def count_files(commits: list[dict]) -> int:
    """Count the distinct files that the commits touch."""
    touched = {path for commit in commits for kind in ("added", "modified", "removed") for path in commit[kind]}
    return len(touched)
