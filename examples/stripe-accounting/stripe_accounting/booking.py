"""What Stripe was paid becomes an invoice and its payment in Xero."""

from datetime import UTC, datetime

from millrace import connections, log, run, runs, step, variables, workflow
from stripe_accounting.money import amount

stripe = connections.client("stripe")
xero = connections.client("xero")
DAY = 86_400


@workflow(name="book-invoice", timeout=120, retries=5, concurrency="input.invoice.id")
async def book_invoice(invoice: dict) -> dict:
    """Book a paid invoice of Stripe; one that is booked already is left alone.

    Args:
        invoice: As Stripe has it, with id, number, currency, amount_paid, customer_name and status_transitions.
    """
    number = invoice["number"] or invoice["id"]
    there = await step("look", booked, number)
    if there is not None:
        log.info("invoice.booked_before", invoice=invoice["id"], booked=there)
        return {"invoice": there, "new": False}
    made = await step("book", book, invoice, number)
    await step("pay", pay, invoice, made)
    log.info("invoice.booked", invoice=invoice["id"], booked=made)
    return {"invoice": made, "new": True}


@workflow(name="book-missed-invoices", timeout=300, retries=3)
async def book_missed_invoices(days: float = 2) -> dict:
    """Book all that was paid lately; a webhook may have been lost while an endpoint was switched off.

    Args:
        days: How far back to look, from the time of the schedule.
    """
    until = await step("now", now) if run.scheduled_for is None else run.scheduled_for.timestamp()
    invoices = await step("list", paid_since, int(until - days * DAY))
    started = [await runs.astart("book-invoice", {"invoice": invoice}, priority="low") for invoice in invoices]
    found = [await runs.wait(one) for one in started]
    return {"seen": len(found), "missed": [one["invoice"] for one in found if one["new"]]}


def now() -> float:
    """Return the time, for a run that no schedule has started; a later attempt finds the same."""
    return datetime.now(UTC).timestamp()


async def paid_since(since: int) -> list[dict]:
    """Return what of each invoice is booked, page by page."""
    found: list[dict] = []
    asked = {"status": "paid", "created[gte]": since, "limit": 100}
    while True:
        page = (await stripe.aget("/invoices", params=asked)).raise_for_status().json()
        found += [kept(one) for one in page["data"] if one["amount_paid"] > 0]
        if not page["has_more"]:
            return found
        asked |= {"starting_after": page["data"][-1]["id"]}


def kept(invoice: dict) -> dict:
    """Return the part of an invoice that is booked: a result has no more of a customer than it needs."""
    names = ("id", "number", "currency", "amount_paid", "customer_name", "customer_email", "status_transitions")
    return {name: invoice.get(name) for name in names}


async def booked(number: str) -> str | None:
    """Return the id of the invoice with this number in Xero, None where there is none."""
    found = (await xero.aget("/api.xro/2.0/Invoices", params={"InvoiceNumbers": number}, headers=await tenant())).raise_for_status()
    return next((one["InvoiceID"] for one in found.json()["Invoices"] if one["Status"] not in {"VOIDED", "DELETED"}), None)


async def book(invoice: dict, number: str) -> str:
    """Make the invoice; Xero takes a key for it, so that a request whose answer was lost makes no second one."""
    day = datetime.fromtimestamp(invoice["status_transitions"]["paid_at"], UTC).date().isoformat()
    made = {
        "Type": "ACCREC",
        "Status": "AUTHORISED",
        "InvoiceNumber": number,
        "Reference": invoice["id"],
        "Contact": {"Name": invoice["customer_name"] or invoice["customer_email"] or "Stripe"},
        "CurrencyCode": invoice["currency"].upper(),
        "Date": day,
        "DueDate": day,
        "LineAmountTypes": "Inclusive",
        "LineItems": [
            {
                "Description": f"Stripe invoice {number}",
                "Quantity": 1,
                "UnitAmount": amount(invoice["amount_paid"], invoice["currency"]),
                "AccountCode": await variables.aget("accounting.revenue"),
            }
        ],
    }
    headers = await tenant() | {"Idempotency-Key": f"invoice-{invoice['id']}"}
    reply = await xero.apost("/api.xro/2.0/Invoices", json={"Invoices": [made]}, headers=headers)
    return reply.raise_for_status().json()["Invoices"][0]["InvoiceID"]


async def pay(invoice: dict, made: str) -> None:
    """Book its payment."""
    day = datetime.fromtimestamp(invoice["status_transitions"]["paid_at"], UTC).date().isoformat()
    paid = {
        "Invoice": {"InvoiceID": made},
        "Account": {"Code": await variables.aget("accounting.bank")},
        "Date": day,
        "Amount": amount(invoice["amount_paid"], invoice["currency"]),
        "Reference": invoice["id"],
    }
    headers = await tenant() | {"Idempotency-Key": f"payment-{invoice['id']}"}
    (await xero.aput("/api.xro/2.0/Payments", json={"Payments": [paid]}, headers=headers)).raise_for_status()


async def tenant() -> dict[str, str]:
    """Return the header that says whose accounts are meant."""
    return {"Xero-Tenant-Id": await variables.aget("accounting.tenant")}
