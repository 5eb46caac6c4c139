"""To the model's grid and intensities, and back."""
