"""The processes of the data plane: orders, CPU, start and end."""
