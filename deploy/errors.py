"""The errors that the start of the embedded stack ends with."""


class StartError(Exception):
    """Millrace cannot start here; the message is one sentence for an operator and names the remedy."""


class SandboxMissing(StartError):
    """Runs cannot be isolated here, and the operator has not allowed bare runs; `up` and the demonstration exit with 3."""
