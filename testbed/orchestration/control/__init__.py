"""The timeline of a run: requests, faults, overload, scaling, orders."""
