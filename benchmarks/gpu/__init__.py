"""GPU benchmarks of single operations and whole steps, compared with the GPU's measured limits ("ceilings")."""
