"""The command line's words: its options, its log, and its flags for keyword arguments."""
