"""The figure of the choice between kinds of scatter."""

import numpy as np

from bayes_cannon import plot
from bayes_cannon.scatter import Full, LowRank
from bayes_cannon.scatter.selection import ScatterPath


def test_gains_errors_and_the_best(tmp_path):
    rng = np.random.default_rng(0)
    scores = np.array([[0.0], [5.0], [9.0]]) + rng.normal(0, 0.1, (3, 50))
    candidates = (None, LowRank(3), Full(heavy_tails=True))
    path = ScatterPath(candidates, scores, np.array([np.inf, np.inf, 0.5]), np.array([True, True, False]))
    assert path.best == LowRank(3)
    figure = plot.scatter_path(path)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "independent", "LowRank, rank 3", "Full, heavy tails",
    ]  # fmt: skip
    points = [container.lines[0] for container in axes.containers]
    np.testing.assert_allclose([point.get_xdata()[0] for point in points], path.table["gain"])
    assert [point.get_marker() for point in points] == ["o", "o", "x"]
    assert [str(point.get_markerfacecolor()) == "white" for point in points] == [True, False, False]
    figure.savefig(tmp_path / "a.png")
