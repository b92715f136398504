"""Workspaces, their workflows and adapters, and runs.

Owns: workspace files, workflows and adapters, runs, the sandbox pool (schema `executor`; the registries `workflows`, `adapters`).
Reads: RUNS, LINES, CATALOG; the buckets `workspace` and `bodies`.
Writes: `run.*` except requests of others, `line.*`, `file.*`, `workflow.*`, `adapter.*`.
"""
