"""One file per command: its options, its run, its words. `reader/` reads what it is given."""
