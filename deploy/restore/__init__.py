"""Making a data folder from a backup, in the states of its moment; what was done is not done again.

`python -m deploy.restore` is `millrace restore`.
"""
