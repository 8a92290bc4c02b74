"""Mergeable state between groups: each tells the others what it has counted."""
