"""Weights in the form of other programs."""
