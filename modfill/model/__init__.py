"""The networks of ALDM: autoencoder, translator, denoiser, refiner. None of them ever sees a path."""
