"""Fault campaigns: breaks the emulated network under load and checks what was promised."""
