"""The command `deftbed`: a file for each group of commands; the one place that composes."""
