"""Errors of labels, calibrated with stars that were held out."""
