"""Training: data, losses, the four stages, and one loop for all of them."""
