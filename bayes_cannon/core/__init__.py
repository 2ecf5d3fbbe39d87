"""The model as formulas on arrays: no NumPyro, no xarray, no input or output."""
