"""Placement: which servers hold the functions of an arriving chain, and their backups."""
