"""Evaluates users' CEL in confined processes, where a crash, a loop or a gigabyte does no harm.

A service holds `pool.Expressions`; `worker` runs in the process, and imports nothing of ours.
"""
