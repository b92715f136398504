"""Runs that wait for events of their own, while executors and the events service are killed."""
