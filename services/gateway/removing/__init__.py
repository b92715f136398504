"""Removes organizations with everything that belongs to them: the record, what each owner has left, and the leader that goes on."""
