"""The parts of the CPU benchmark: each is a function that measures and yields rows."""
