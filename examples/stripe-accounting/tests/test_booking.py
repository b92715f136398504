"""Booking, against a Stripe and a Xero that the test answers for."""

from datetime import UTC, datetime

import pytest
from stripe_accounting.booking import book_invoice, book_missed_invoices
from stripe_accounting.money import amount

from millrace import Reply, testing

PAID = int(datetime(2026, 1, 31, 9, tzinfo=UTC).timestamp())
INVOICE = {
    "id": "in_1",
    "number": "A-0001",
    "currency": "eur",
    "amount_paid": 1990,
    "customer_name": "Ada Lovelace",
    "customer_email": "ada@example.com",
    "status_transitions": {"paid_at": PAID},
}
VARIABLES = {"accounting.tenant": "tenant-1", "accounting.revenue": "200", "accounting.bank": "090"}
INVOICES, PAYMENTS = "/api.xro/2.0/Invoices", "/api.xro/2.0/Payments"
XERO = {
    f"GET {INVOICES}": {"Invoices": []},
    f"POST {INVOICES}": {"Invoices": [{"InvoiceID": "x-1"}]},
    f"PUT {PAYMENTS}": {"Payments": [{}]},
}


def book(xero=XERO, **more):
    return testing.run(
        book_invoice,
        {"invoice": INVOICE},
        connections={"xero": "a-token-of-xero"},
        variables=VARIABLES,
        answers={"xero": xero},
        **more,
    )


def test_an_invoice_and_its_payment_are_booked():
    outcome = book()
    assert outcome.value() == {"invoice": "x-1", "new": True}
    looked, made, paid = outcome.sent
    assert looked.path == f"{INVOICES}?InvoiceNumbers=A-0001"
    assert {one.headers["Xero-Tenant-Id"] for one in outcome.sent} == {"tenant-1"}
    (invoice,) = made.json()["Invoices"]
    assert (invoice["InvoiceNumber"], invoice["Date"], invoice["CurrencyCode"]) == ("A-0001", "2026-01-31", "EUR")
    assert invoice["LineItems"][0]["UnitAmount"] == "19.90"
    assert made.headers["Idempotency-Key"] == "invoice-in_1"
    (payment,) = paid.json()["Payments"]
    assert (payment["Amount"], payment["Account"], payment["Invoice"]) == ("19.90", {"Code": "090"}, {"InvoiceID": "x-1"})


def test_what_is_booked_already_is_left_alone():
    there = XERO | {f"GET {INVOICES}": {"Invoices": [{"InvoiceID": "x-0", "Status": "PAID"}]}}
    outcome = book(there)
    assert outcome.value() == {"invoice": "x-0", "new": False}
    assert len(outcome.sent) == 1


def test_one_that_was_voided_is_booked_again():
    voided = XERO | {f"GET {INVOICES}": {"Invoices": [{"InvoiceID": "x-0", "Status": "VOIDED"}]}}
    assert book(voided).value() == {"invoice": "x-1", "new": True}


def test_a_later_attempt_makes_no_second_invoice():
    first = book(XERO | {f"PUT {PAYMENTS}": Reply(503)})
    assert first.status == "failed"
    again = book({f"PUT {PAYMENTS}": {"Payments": [{}]}}, steps=first.steps)
    assert again.value() == {"invoice": "x-1", "new": True}
    assert [one.method for one in again.sent] == ["PUT"]


def test_what_was_missed_is_found_page_by_page():
    pages = iter(
        [
            {"data": [INVOICE, INVOICE | {"id": "in_2", "amount_paid": 0}], "has_more": True},
            {"data": [INVOICE | {"id": "in_3"}], "has_more": False},
        ]
    )
    outcome = testing.run(
        book_missed_invoices,
        {},
        connections={"stripe": "a-key-of-stripe"},
        answers={"stripe": {"GET /invoices": pages}},
        runs={"book-invoice": lambda given: {"invoice": f"x-{given['invoice']['id']}", "new": given["invoice"]["id"] == "in_3"}},
        scheduled_for=datetime(2026, 2, 1, 2, 30, tzinfo=UTC),
    )
    assert outcome.value() == {"seen": 2, "missed": ["x-in_3"]}
    first, second = outcome.sent
    assert f"created%5Bgte%5D={int(datetime(2026, 1, 30, 2, 30, tzinfo=UTC).timestamp())}" in first.path
    assert "starting_after=in_2" in second.path


@pytest.mark.parametrize(("minor", "currency", "text"), [(1990, "eur", "19.90"), (5, "usd", "0.05"), (1990, "jpy", "1990")])
def test_amounts_are_in_units_of_their_currency(minor, currency, text):
    assert amount(minor, currency) == text
