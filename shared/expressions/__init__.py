"""What people write in CEL, evaluated where a crash, a loop or a gigabyte hurts nobody: in confined processes.

`pool.Expressions` is what a service holds; `worker` is what runs in the process, and imports nothing of ours.
"""
