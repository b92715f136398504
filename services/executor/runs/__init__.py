"""The life of a run, from the work message that dispatches it to the purge of its messages.

`worker` pulls work when a slot is free, `dispatch` claims, parks or ends the run, `claim` holds it, `supervisor` carries it with
the `capabilities` that its child is given. `run_state` folds a run's messages, `decide` derives the next step; `resumer`
resumes runs that wait, `concurrency` and `shares` bound how many go on at a time, `scaling` follows the load with the slots,
`poison` ends runs that always fail, `purge` removes ended runs from the bus.
"""
