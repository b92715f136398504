"""Evaluates people's CEL where a crash, a loop or a gigabyte hurts nobody: in confined processes.

A service holds `pool.Expressions`; `worker` runs in the process, and imports nothing of ours.
"""
