"""Failures under load: real servers, two gateways, end-to-end ids, and a verdict for every run."""
