"""Stands in for the data plane in the supervisor's tests."""
