"""Every public callable with wrong types and wrong values: `python -m tests.fuzz`."""
