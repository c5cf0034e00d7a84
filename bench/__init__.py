"""Benchmarks: ratios measured in one process, each `python -m limitax.bench.NAME [--quick]`."""
