"""Posteriors: the programs of `bayes_cannon.programs`, sampled. With `programs` the only place that knows NumPyro."""
