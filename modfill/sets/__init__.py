"""The built-in sets of modalities, a TOML file each, and the check of such files."""
