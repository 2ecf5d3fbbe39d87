"""From spectra with labels to theta and s^2, one pixel at a time."""
