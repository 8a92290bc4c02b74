"""The state of network functions: tables of records, and data that replicas merge."""
