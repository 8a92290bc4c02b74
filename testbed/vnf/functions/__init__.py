"""The network functions: pure compiled code, a file each."""
