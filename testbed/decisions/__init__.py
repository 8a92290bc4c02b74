"""The words in which a world asks and a policy answers."""
