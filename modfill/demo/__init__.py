"""The demonstration on a simulated case."""
