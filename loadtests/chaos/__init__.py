"""What tries to break a running service: one module a scenario, run in full by `make chaos`, in short by the tests."""
