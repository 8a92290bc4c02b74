"""Measures the rate that a scenario's chain carries: RFC 2544 for packets, RFC 6349 for TCP."""
