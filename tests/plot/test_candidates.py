"""The figure of the choice between kinds of scatter."""

import numpy as np

from bayes_cannon import plot
from bayes_cannon.model.order_selection import OrderPath, Polynomial
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


def test_orders_are_named():
    rng = np.random.default_rng(0)
    scores = np.array([[0.0], [5.0]]) + rng.normal(0, 0.1, (2, 50))
    candidates = (Polynomial(1), Polynomial(2, np.full(3, 10.0)))
    path = OrderPath(candidates, scores, np.full(2, np.inf), np.ones(2, bool), n_terms=np.array([4.0, 8.5]))
    (axes,) = plot.scatter_path(path).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["order 1", "order 2, Lambda 10"]
    markers = [str(container.lines[0].get_markerfacecolor()) for container in axes.containers]
    assert [colour == "white" for colour in markers] == [True, False]
