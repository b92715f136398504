"""The workflow of the drill of waits."""

from millrace import wait_for_event, workflow


@workflow(name="chaos-paid", timeout=600)
async def paid(invoice: str) -> dict[str, str]:
    """Wait for the payment of an invoice."""
    event = await wait_for_event("invoice.paid", source="shop", where="event.data.id == invoice", timeout=86_400)
    return {"event": event["id"], "invoice": event["data"]["id"]}
