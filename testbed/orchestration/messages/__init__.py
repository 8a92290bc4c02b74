"""Datagrams between the processes of a run."""
