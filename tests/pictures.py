"""Takes a picture of every page of the console, wide and narrow, light and dark: `python -m tests.pictures [FOLDER]`.

Starts a stack on a temporary folder, gives it something to show, signs somebody in and opens page after page in a real browser.
Without a folder the pictures are those of docs/console-pictures.md, which is written as well.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path

import aiohttp

from tests.shown import filled
from tests.support.browser import Page, browsing, chromium
from tests.support.client import Client
from tests.support.places import open_folder
from tests.support.signing_in import accept_in
from tests.support.stack import running_up

DOCS = Path(__file__).parent.parent / "docs"
KEPT = DOCS / "images" / "console"
MODES = {"wide": (1440, 900), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
QUALITY = 82
# Executors are named by their machine, which is not that of whoever takes the pictures. Only root may give it another name.
NAMED = ("unshare", "--uts", "sh", "-c", 'hostname worker-1 && exec "$@"', "sh") if os.geteuid() == 0 else ()
# The pages in the order in which they are shown: their names, and their titles.
PAGES = {
    "overview": "Overview",
    "deliveries": "Deliveries",
    "delivery": "One delivery",
    "runs": "Runs",
    "run": "A run that succeeded",
    "failed": "A run that failed",
    "waiting": "A run that waits for an answer",
    "running": "A run that goes on",
    "parent": "A run with runs of its own",
    "approvals": "Approvals",
    "approval": "One question",
    "logs": "Logs",
    "dead-letters": "Dead letters",
    "dead-letter": "One dead letter",
    "audit": "Audit",
    "searches": "Saved searches",
    "workflows": "Workflows",
    "workflows/sync_tickets": "One workflow",
    "files/exports.py": "A file that does not serve",
    "sources": "Sources",
    "sources/github": "One source",
    "sources/+": "A new source",
    "subscriptions": "Subscriptions",
    "subscriptions/pushes": "One subscription",
    "schedules": "Schedules",
    "schedules/nightly": "One schedule",
    "forms": "Forms",
    "forms/refund": "One form",
    "packs": "Packs: there is none yet",
    "integrations": "Integrations",
    "integrations/helpdesk": "One integration",
    "connections": "Connections",
    "connections/helpdesk": "One connection",
    "secrets": "Secrets",
    "variables": "Variables",
    "members": "Members",
    "keys": "Keys",
    "keys/ci": "One key",
    "users": "Users",
    "orgs": "Organizations",
    "operations": "Health and quotas",
}
# Pages that are looked at with a search.
SEARCHED = {"logs": "logs?from=now-15m", "overview": ""}
# What a page has to have before it is whole, besides its answers.
HAS = dict.fromkeys(("run", "failed", "waiting", "running"), ".log .line")
HAS |= {"failed": ".frame .l.at", "files/exports.py": ".noted", "logs": ".histogram svg", "subscriptions/pushes": ".json"}
# Counts questions that are not answered, so that a page is not taken while something of it is on its way.
COUNTED = """
window.unanswered = 0; window.answered = 0
addEventListener("DOMContentLoaded", () => { document.documentElement.style.scrollbarGutter = "auto" })
const ask = window.fetch
window.fetch = async (...given) => {
  unanswered++
  try { return await ask(...given) } finally { unanswered--; answered = performance.now() }
}
"""
WHOLE = """
document.querySelector('main h1') && !document.querySelector('main .loading, .live.connecting') && document.querySelector('{has}')
&& window.unanswered === 0 && performance.now() - window.answered > 500 && document.documentElement.scrollWidth <= innerWidth
"""


async def taken(page: Page, client: Client, folder: Path, pages: dict[str, str]) -> int:
    """Take the pictures of all pages; return how many. A page that can be scrolled sideways is never whole."""
    await page.command("Page.enable")
    await page.command("Emulation.setScrollbarsHidden", hidden=True)
    await page.command("Page.addScriptToEvaluateOnNewDocument", source=COUNTED)
    number = 0
    for mode, (width, height) in MODES.items():
        await page.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mode == "narrow"
        )
        for scheme in SCHEMES:
            await page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for name, path in pages.items():
                await page.open(f"{client.url}/console/{path}" if path else f"{client.url}/")
                try:
                    await page.until(WHOLE.format(has=HAS.get(name, "main")))
                except TimeoutError as error:
                    raise AssertionError(f"{name} is not whole, {mode} and {scheme}") from error
                answer = await page.command("Page.captureScreenshot", format="webp", quality=QUALITY)
                (folder / file_of(name, mode, scheme)).write_bytes(base64.b64decode(answer["result"]["data"]))
                number += 1
                if folder == KEPT and name in {"overview", "failed"} and (mode, scheme) == ("wide", "light"):
                    await page.picture(DOCS / "images" / f"console-{'run' if name == 'failed' else name}.png")
    return number


def file_of(name: str, mode: str, scheme: str) -> str:
    """Return the name of a picture's file."""
    return f"{name.replace('/+', '-new').replace('/', '-')}.{mode}.{scheme}.webp"


def document() -> str:
    """Return the page that shows the pictures that are kept."""
    lines = [
        "# Pictures of the console",
        "",
        "Every page of [the console](console.md), as a screen of 1440 and one of 390 pixels show it, light and dark,",
        "with what an invented company may have in it. `python -m tests.pictures` takes them anew from a real browser.",
    ]
    for name, title in PAGES.items():
        wide, narrow = (
            " | ".join(f"![{title}, {mode}, {scheme}](images/console/{file_of(name, mode, scheme)})" for scheme in SCHEMES)
            for mode in MODES
        )
        lines += ["", f"## {title}", "", "| light | dark |", "| --- | --- |", f"| {wide} |", f"| {narrow} |"]
    return "\n".join(lines) + "\n"


async def main(folder: Path) -> int:
    """Take all pictures; return how many."""
    program = chromium()
    assert program is not None, "the browser `chromium` is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    with open_folder() as place:
        running = running_up(place / ".millrace", around=NAMED)
        async with running as up, aiohttp.ClientSession() as session, browsing(program) as page:
            client = Client(session, up.ready)
            ids = await filled(client, session)
            invitation = {"role": "admin", "name": "ada", "display_name": "Ada Lovelace"}
            await accept_in(page, await client.call("POST", "/api/v1/orgs/global/invitations", body=invitation))
            return await taken(page, client, folder, {name: SEARCHED.get(name, ids.get(name, name)) for name in PAGES})


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT
    sys.stdout.write(f"{asyncio.run(main(chosen))} pictures\n")
    if chosen == KEPT:
        (DOCS / "console-pictures.md").write_text(document(), "utf-8")
