"""Many cases: pipeline, table, locks, parts of a cohort, progress."""
