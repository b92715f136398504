"""Amounts, as Stripe has them and as accounts do."""

from decimal import Decimal

# Of these Stripe counts whole units; of all others hundredths.
WHOLE = frozenset("BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF UGX VND VUV XAF XOF XPF".split())


def amount(minor: int, currency: str) -> str:
    """Return an amount in the smallest unit of its currency as a decimal number."""
    return str(Decimal(minor) if currency.upper() in WHOLE else Decimal(minor).scaleb(-2))
