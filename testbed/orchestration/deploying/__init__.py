"""Puts chains on the emulated network, changes them, and takes them off."""
