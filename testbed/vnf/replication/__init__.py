"""The replication protocol as state machines without I/O: events in, actions out."""
