"""The package's own certified solver of a pixel's joint optimum."""
