"""What is written: names, sidecars, images, links."""
