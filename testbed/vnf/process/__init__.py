"""The processes of the data plane: their orders, their start and their end."""
