"""One run, comparisons of runs, fault campaigns, throughput, and orders to a run under way."""
