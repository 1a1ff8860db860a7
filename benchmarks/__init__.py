"""Benchmarks: a script each, and dated results under `results/`."""
