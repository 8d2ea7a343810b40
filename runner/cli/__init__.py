"""The command line: one file per noun; ``main`` reads the global options and runs one."""
