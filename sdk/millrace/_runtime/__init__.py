"""Runs inside a sandboxed child around the author's code. Not for authors."""
