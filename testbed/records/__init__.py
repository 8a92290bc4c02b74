"""The records of a run: their formats, and files that are whole or absent."""
