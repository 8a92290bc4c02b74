"""What a run records, and how it comes to be whole on the disk."""
