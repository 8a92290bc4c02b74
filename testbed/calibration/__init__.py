"""Fits the twin to a host, and measures the error of the fitted twin."""
