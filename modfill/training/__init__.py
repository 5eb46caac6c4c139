"""Training: data, losses, the three stages, and one loop for all of them."""
