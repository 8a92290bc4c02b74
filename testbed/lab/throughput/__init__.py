"""How much a scenario's chain can carry: RFC 2544 for packets, RFC 6349 for TCP."""
