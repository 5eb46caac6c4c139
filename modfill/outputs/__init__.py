"""Names, sidecars, images and links that are written."""
