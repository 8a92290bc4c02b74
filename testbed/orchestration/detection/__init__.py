"""Finds failures, and agrees on who is in which replica group."""
