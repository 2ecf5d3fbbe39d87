"""Posterior draws of theta and s of every pixel."""
