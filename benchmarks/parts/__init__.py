"""The parts of the CPU benchmark. Each part is a function that measures and yields rows."""
