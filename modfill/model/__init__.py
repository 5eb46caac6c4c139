"""The networks of ALDM: autoencoder, translator, denoiser, refiner. None of them reads a file."""
