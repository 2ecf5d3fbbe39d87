"""Algorithms, one a file. They know arrays and the training scalar, but no spectra, labels or files."""
