"""The life of a run, from the work message that dispatches it to the purge of its messages.

`worker` pulls work when a slot is free, `dispatch` decides what becomes of it, `claim` holds the run, `supervisor` carries it with
the `capabilities` that its child is given. `run_state` folds a run's messages, `decide` says what is to be done with it; `resumer`
resumes runs that wait, `concurrency` and `shares` bound how many go on at a time, `poison` ends what nobody can carry, `purge` lets
the bus forget.
"""
