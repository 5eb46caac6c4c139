"""Scans and pages that show a cohort."""
