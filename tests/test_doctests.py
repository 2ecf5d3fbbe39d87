"""Every public name has an example in its docstring, which runs and prints what the docstring says.

The examples know ``np``, ``tc`` (the package), ``model``, a trained model with its training spectra, and ``tree``, a
posterior of its theta.
"""

import doctest
from importlib.util import find_spec

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import bayes_cannon as tc
from bayes_cannon.core import label_mixture, labels, scaling

MODULES = (
    tc.censoring, tc.continuum, tc.io, tc.plot, tc.restricted, tc.scatter, tc.training_set, tc.validate, tc.vectorizer,
)  # fmt: skip
WITHOUT = {
    "plot.factors", "plot.scatter_path", "scatter.CommonCovariance", "scatter.IndependentScatter",
    "scatter.LearnedScatter", "scatter.LowRankScatter", "scatter.NoiseAndScatter", "scatter.Scatter",
}  # fmt: skip
"""Public names that have no example yet. Those that get one must leave the list."""


def _public() -> dict[str, object]:
    found: dict[str, object] = {
        "CannonModel": tc.CannonModel,
        "LocalCannonModel": tc.LocalCannonModel,
        "core.scaling.LabelScaling": scaling.LabelScaling,
    }
    if find_spec("bokeh") is not None:
        found["report"] = tc.report.report
    found |= {f"core.labels.{name}": getattr(labels, name) for name in ("label_array", "label_units")}
    found |= {
        f"core.label_mixture.{name}": getattr(label_mixture, name)
        for name in ("LabelMixture", "fit_mixture", "population")
    }
    for module in MODULES:
        name = module.__name__.removeprefix("bayes_cannon.")
        found |= {f"{name}.{public}": getattr(module, public) for public in module.__all__}
    return {name: value for name, value in found.items() if callable(value)}


PUBLIC = _public()


def _tree(model: tc.CannonModel) -> xr.DataTree:
    """What the figure takes of a posterior that was sampled: its summary. To sample takes a minute."""
    n_pixels, terms, levels = model.n_pixels, model.vectorizer.readable_terms, [0.16, 0.5, 0.84]
    spread = np.array([-0.01, 0.0, 0.01])
    variables = {
        "s_quantiles": (("pixel", "quantile"), np.sqrt(model.s2)[:, None] + 0.1 * spread),
        "theta_quantiles": (("pixel", "quantile", "term"), model.theta[:, None, :] + spread[:, None]),
        "r_hat": (("pixel", "parameter"), np.ones((n_pixels, 1 + len(terms)))),
        "ess_bulk": (("pixel", "parameter"), np.full((n_pixels, 1 + len(terms)), 1000.0)),
        "s_mean": ("pixel", np.sqrt(model.s2)),
        "k_hat": ("pixel", np.full(n_pixels, np.nan)),
        "status": ("pixel", np.zeros(n_pixels, int)),
    }
    coordinates = {"pixel": np.arange(n_pixels), "term": terms, "quantile": levels}
    tree = xr.DataTree.from_dict({"/summary": xr.Dataset(variables, coordinates)})
    tree.attrs["sampling_n_chains"] = 4
    return tree


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_example_runs(name, trained):
    known = {"np": np, "tc": tc, "model": trained, "tree": _tree(trained)}
    tests = doctest.DocTestFinder(recurse=True).find(PUBLIC[name], name, module=False, globs=known)
    examples = [example for test in tests for example in test.examples]
    assert bool(examples) == (name not in WITHOUT), f"{name} has {len(examples)} lines of examples"
    runner = doctest.DocTestRunner()
    for test in tests:
        said: list[str] = []
        with mpl.rc_context({"backend": "agg"}):
            runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)


@pytest.mark.parametrize("module", [tc, *MODULES], ids=lambda module: module.__name__)
def test_every_listed_name_is_there(module):
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
