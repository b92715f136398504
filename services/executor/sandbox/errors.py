"""Failures of the sandbox itself, as opposed to those of the code in it."""


class SandboxUnavailable(Exception):
    """No child can be started here. The message names what is missing and the fix."""


class FrameError(Exception):
    """Bytes from a child are no frame, or a message to it does not fit into one."""


class OverLimit(Exception):
    """A run asked for more than one of its limits: its attempt ends with the reason `limit` and this name and message."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name
