"""What an author gives as a name or a path, judged before it is sent: the supervisor ends a run that sends what it cannot read."""


def checked_text(text: object, what: str, longest: int = 200, *, least: int = 1) -> str:
    """Answer `text` where it has `least` to `longest` characters that can be sent. Raises TypeError, ValueError, naming `what`."""
    if not isinstance(text, str):
        msg = f"{what} is text, not {text!r}"
        raise TypeError(msg)
    if not least <= len(text) <= longest:
        msg = f"{what} has {least} to {longest} characters, not {len(text)}"
        raise ValueError(msg)
    if "\0" in text:
        msg = f"{what} holds a NUL character"
        raise ValueError(msg)
    try:
        text.encode()
    except UnicodeEncodeError:
        msg = f"{what} holds half a surrogate pair, which is not a character"
        raise ValueError(msg) from None
    return str(text)
