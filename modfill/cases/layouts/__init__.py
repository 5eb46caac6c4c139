"""Layouts of cohorts on disk, a module each, which finds cases by names and descriptions and reads no voxels."""
