"""Hostile values through every door of a running stack, of which none may be hurt: `make fuzz`, `python -m tests.fuzz`.

`hostile` says what values there are, `shapes` where the declarations have places for them, `cases` puts the two together by seed
and number, `documents` writes what comes of it, the modules of `doors` send it, and `verdict` looks at what became of the stack.
"""
