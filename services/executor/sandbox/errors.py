"""Failures of the sandbox itself, as opposed to those of the code in it."""


class SandboxUnavailable(Exception):
    """No child can be started here. The message says what is missing and how to put it right."""


class FrameError(Exception):
    """Bytes from a child are no frame, or a message to it does not fit into one."""


class OverLimit(Exception):
    """A run asked for what goes over a limit of its own: it ends its attempt, with the reason `limit` and this name and message."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name
