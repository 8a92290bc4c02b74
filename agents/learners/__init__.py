"""Algorithms that learn, one a file, for any problem; each with its typed config."""
