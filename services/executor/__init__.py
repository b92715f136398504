"""Workspaces, their workflows and adapters, and runs.

Owns: workspace files, workflows and adapters, runs, the sandbox pool (schema `executor`; the registries `workflows`, `adapters`).
Reads: RUNS, LINES, CATALOG, `branch.*.moved`; the buckets `workspace`, `agreed` and `bodies`.
Writes: `run.*` except requests of others, `line.*`, `file.*`, `sync.*`, `workflow.*`, `adapter.*`.
"""
