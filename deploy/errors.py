"""The one error that the start of the embedded stack ends with."""


class StartError(Exception):
    """Millrace cannot start here; the message is one sentence for an operator and says what to do."""
