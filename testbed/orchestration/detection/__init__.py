"""Finds failures, and agrees on the members of each replica group."""
