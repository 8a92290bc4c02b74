"""The ends of a chain: classifier, stamper and duplicate filter on the user hosts."""
