"""What the benchmarks share: starting what is measured, sending load, reading clocks, and telling the outcome."""
