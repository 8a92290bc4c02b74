"""The digital twin: the same scenario and decisions as a fast simulator."""
