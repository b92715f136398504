"""Greets people in the words of a file beside the code."""

from pathlib import Path

from millrace import log, step, workflow

GREETING = Path(__file__).with_name("greeting.txt")


@workflow(name="greet", timeout=60)
async def greet(name: str, loud: bool = False) -> dict[str, str]:
    """Greet somebody.

    Args:
        name: The person to greet.
        loud: Greet in capitals.
    """
    text = await step("write", written, name)
    log.info("greeted", name=name)
    return {"text": text.upper() if loud else text}


def written(name: str) -> str:
    """Return the greeting; as a step it is written once, however often the run is tried."""
    return GREETING.read_text().strip().replace("NAME", name)
