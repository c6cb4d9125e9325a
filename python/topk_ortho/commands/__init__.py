"""One file per command: its options, its run, its output. `reader/` reads the command line."""
