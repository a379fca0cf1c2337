"""Random lives of small models, and killed runs: `python -m tests.soak`. A sample of it runs in `make test`."""
