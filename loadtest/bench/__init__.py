"""The reproducible benchmark, `make bench`: every figure of one table in one run."""
