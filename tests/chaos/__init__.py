"""The kill matrix: kill and pause the parts of a running installation under load, then count what was lost or done twice.

The frame is here; `webhooks` and `runs` are the two drills in it.
"""
