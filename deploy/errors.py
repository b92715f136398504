"""The errors that the start of the embedded stack ends with."""


class StartError(Exception):
    """Millrace cannot start here; the message is one sentence for an operator and says what to do."""


class SandboxMissing(StartError):
    """Runs cannot be isolated here, and nobody has said that they may go on without; `up` and the demonstration exit with 3."""
