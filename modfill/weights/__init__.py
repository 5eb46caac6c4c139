"""Trained weights: the file, and how it is written and read."""
