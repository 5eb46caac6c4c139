"""Benchmarks of modfill and its rivals; run as `python -m benchmarks.translation` from the repository's root."""
