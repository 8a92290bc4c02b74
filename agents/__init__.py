"""Decisions: a folder for each decision problem, and what they share."""
