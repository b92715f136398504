"""Workspaces, workflows and their runs.

Owns: workspace files, the workflow registry, runs, the sandbox pool (schema `executor`; the registry `workflows`).
Reads: RUNS, LINES, CATALOG; the buckets `workspace` and `bodies`.
Writes: `run.*` except requests of others, `line.*`, `file.*`, `workflow.*`.
"""
