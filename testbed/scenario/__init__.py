"""The scenario: what is tried, checked and typed. Everything else reads it."""
