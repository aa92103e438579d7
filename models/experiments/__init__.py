"""Experiments that ask whether the mechanism does what the paper says."""
