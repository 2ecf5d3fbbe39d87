"""Posteriors of theta and s of every pixel, and of the labels of every star, by sampling the NumPyro programs."""
