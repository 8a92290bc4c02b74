"""Fault campaigns: inject faults under load and check every guarantee."""
