"""What is there: finding, reading and checking a case's files."""
