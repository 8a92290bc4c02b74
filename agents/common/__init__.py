"""What the decision problems share: worlds, learning pieces, training, files."""
