"""The drill of runs: kill and pause executors under ten thousand runs of every kind, then say what became of each run."""
