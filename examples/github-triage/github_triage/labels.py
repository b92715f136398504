"""Which labels a text suggests. Nothing here asks anybody."""

import re


def suggested(text: str, rules: dict[str, list[str]]) -> list[str]:
    """Return the labels of which the text has a word, as whole words and in any case; `question` where it has none."""
    found = [label for label, words in rules.items() if any(re.search(rf"\b{re.escape(word)}\b", text, re.I) for word in words)]
    return found or ["question"]


def split(text: str) -> list[str]:
    """Return the labels that somebody has typed, with commas between them."""
    return list(dict.fromkeys(label for one in text.split(",") if (label := one.strip())))
