"""Intervals, tests and quantiles: one implementation for every report. Pure; imports no other room.

`quantiles` is about the values within a run, `paired_comparison` about policies that met the same
seeds.
"""
