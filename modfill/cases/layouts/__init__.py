"""How cohorts lie on disk, one module per layout; each finds cases by names and descriptions and reads no image."""
