"""Fits the twin to a host, and says how far the twin is to be believed."""
