import numpy as np
import pytest

from bayes_cannon.io.label_tree import label_tree
from bayes_cannon.posterior.labels.summary import LabelPosterior


@pytest.fixture(scope="module")
def tree():
    from dataclasses import fields

    rng = np.random.default_rng(0)
    draws = [4800, 2.5] + [50, 0.1] * rng.normal(size=(4, 250, 3, 2))
    shapes = {"mean": (3, 2), "covariance": (3, 2, 2), "quantiles": (3, 5, 2), "r_hat": (3, 2), "ess_bulk": (3, 2),
              "ess_tail": (3, 2), "mode_labels": (3, 1, 2), "mode_excess": (3, 1)}  # fmt: skip
    values = {name: np.zeros(shape) for name, shape in shapes.items()}
    values |= {"draws": draws, "stats": {}, "n_pixels": np.ones(3, int), "status": np.zeros(3, int)}
    names = {one.name for one in fields(LabelPosterior)}
    assert names == values.keys()
    return label_tree(LabelPosterior(**values), ("TEFF", "LOGG"), {"TEFF": "K"})


def test_arviz_summarizes_it(tree):
    import arviz as az  # Where warnings are errors it must come after NumPyro.

    summary = az.summary(tree.sel(star=[0]), round_to="none")
    assert list(summary.index) == ["labels[0, TEFF]", "labels[0, LOGG]"]
    draws = tree["posterior/labels"].sel(star=0).to_numpy()
    np.testing.assert_allclose(summary["mean"], draws.mean(axis=(0, 1)))
    np.testing.assert_allclose(summary["sd"], draws.std(axis=(0, 1), ddof=1), rtol=1e-3)
    assert len(az.summary(tree)) == 6


def test_labels_have_their_names_and_units(tree):
    assert tree["posterior/labels"].sel(label_name="TEFF").shape == (4, 250, 3)
    assert tree["posterior/label_name"].attrs == {"unit_TEFF": "K"}
    assert tree["summary/covariance"].dims == ("star", "label_name", "other_label")
