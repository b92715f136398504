"""Schedules: `rules` checks them, `plan` says which times are due, `firing` makes runs and events of them and sets the timers.

`state` keeps how far each has come, `declared` puts those that stand beside a workflow's code, and `questions` answers about them.
"""
