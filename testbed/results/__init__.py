"""Record formats, statistics, plots and the report; reads files, not live objects."""
