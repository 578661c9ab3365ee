"""Load tests, micro-benchmarks, and the stage of real servers that the demo and the tests play on."""
