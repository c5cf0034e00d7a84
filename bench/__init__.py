"""Benchmarks: ratios measured in one process; all by `python -m limitax.bench`, one by `python -m limitax.bench.NAME`."""
