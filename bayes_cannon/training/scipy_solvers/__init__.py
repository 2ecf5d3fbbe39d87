"""SciPy's optimizers for the same scalar."""
