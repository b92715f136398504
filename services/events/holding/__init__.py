"""Held events: those of subscriptions that order, rate or debounce what they start.

`plan` decides which of a group's held events are due, `state` has the rows, which follow from EVENTS, and `releasing` looks at
groups and asks for the runs. A group is the events of one subscription that have one key.
"""
