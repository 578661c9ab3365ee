"""Load tests, micro-benchmarks, and the stage of real servers that demo and tests play on."""
