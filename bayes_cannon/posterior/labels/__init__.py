"""Posterior draws of the labels of every star."""
