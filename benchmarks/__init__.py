"""Commands that produce every number in the README: `python -m benchmarks.quality` and its neighbours."""
