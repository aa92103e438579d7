"""Load on the running service: benchmarks, and what they and the tests start it with."""
