"""What carries the links of a network."""
