"""Finding, reading and checking a case's files."""
