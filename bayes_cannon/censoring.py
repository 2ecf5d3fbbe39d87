"""Public name of :mod:`bayes_cannon.core.censoring`."""

from bayes_cannon.core.censoring import Censors, create_inverse_mask, create_mask, design_matrix_mask

__all__ = ["Censors", "create_inverse_mask", "create_mask", "design_matrix_mask"]
