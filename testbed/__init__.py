"""deftbed: a network-emulation testbed for stateful network functions."""

__version__ = "0.1.0"
