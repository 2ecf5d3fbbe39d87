"""From spectra to labels and their covariance."""
