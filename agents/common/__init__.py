"""What the decision problems share: policies, learning pieces, evaluation."""
