"""The networks of ALDM: autoencoder, translator, denoiser. None of them reads a file."""
