"""Runs that wait for events: which event answers which of them.

`plan` is pure, `rows` has what follows from RUNS and EVENTS, `questions` looks at what a run asks for, and `waking` looks for the
waits of an event, and for the events that came before a wait.
"""
