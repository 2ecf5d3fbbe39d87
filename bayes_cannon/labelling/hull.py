"""Whether points lie in the convex hull of others, in any number of dimensions."""

import numpy as np

from bayes_cannon.core.typing import CornerLabel, StarLabel


def in_convex_hull(points: StarLabel, corners: CornerLabel) -> np.ndarray:
    """Whether each point is a weighted mean of the corners, boolean, shape (star,).

    A linear program decides, one for each point inside the corners' range. A triangulation would need time and memory
    that grow exponentially with the number of labels. NaN is outside.

    Parameters
    ----------
    points
        Shape (star, label).
    corners
        Shape (corner, label), of the order of one in each label.

    """
    from scipy.optimize import linprog  # Takes half a second, which only those who ask should wait.

    inside = np.all((points >= corners.min(axis=0)) & (points <= corners.max(axis=0)), axis=1)
    equations = np.vstack([corners.T, np.ones(len(corners))])
    options = {"primal_feasibility_tolerance": 1e-10}
    for star in np.flatnonzero(inside):
        goal = np.append(points[star], 1.0)
        inside[star] = linprog(np.zeros(len(corners)), A_eq=equations, b_eq=goal, options=options).status == 0
    return inside
