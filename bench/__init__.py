"""Benchmarks: ratios measured in one process, all by `python -m limitax.bench`, each by `python -m limitax.bench.NAME`."""
