"""Sizes for a GPU give the results of those for a processor; JAX computes on the processor all the same."""

from dataclasses import fields

import numpy as np
import pytest

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.execution import devices
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.fit import LabelFit, fit_labels
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.scatter import IndependentScatter
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile import blocks
from bayes_cannon.training.train import train

N_STARS, N_PIXELS = 90, 40


@pytest.fixture(scope="module")
def problem() -> PixelProblem:
    rng = np.random.default_rng(0)
    vectorizer = PolynomialVectorizer(["a", "b"], 2)
    x = rng.normal(0, 0.3, (N_STARS, 2))
    theta = rng.normal(0, 0.05, (N_PIXELS, vectorizer.n_terms)) + np.eye(vectorizer.n_terms)[0]
    flux = vectorizer(x).T @ theta.T + 0.01 * rng.normal(size=(N_STARS, N_PIXELS))
    ivar = 1e4 * rng.uniform(0.5, 2, flux.shape) * (rng.random(flux.shape) > 0.05)
    return PixelProblem.unbounded(Terms(vectorizer.exponents, x), flux, ivar, 10.0)


@pytest.fixture
def sizes_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_cpu", lambda: False)
    monkeypatch.setattr(blocks, "is_cpu", lambda: False)


def test_the_processor_is_the_device_here() -> None:
    assert devices.is_cpu()
    assert devices.by_device(3, 5) == 3


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_spectra_turned_on_the_device_are_those_turned_here(dtype: type) -> None:
    flux, ivar = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(dtype)
    with own_jax_settings():
        here, there = blocks._turned(flux, ivar, 8), np.asarray(blocks._turned_on_device(flux, ivar, 8))
    np.testing.assert_array_equal(here[:, :, :5], [flux.T, ivar.T])
    assert not here[:, :, 5:].any()
    np.testing.assert_array_equal(there, here)


def test_training_and_labels_do_not_depend_on_the_sizes(problem: PixelProblem, request: pytest.FixtureRequest) -> None:
    def results() -> tuple:
        solution = train(problem)
        scaling = LabelScaling(np.zeros(2), np.ones(2))
        model = TrainedModel(solution.theta, solution.s2, IndependentScatter(), problem.terms, scaling)
        return solution, fit_labels(model, problem.flux, problem.ivar)

    assert blocks.block_size(1000, 21, 7214) == 128
    solution, fit = results()
    request.getfixturevalue("sizes_of_gpu")
    assert blocks.block_size(1000, 21, 7214) == blocks.padded_size(7214)
    assert blocks.block_size(64, 171, 100_000) == devices.NUMBERS_ON_GPU // 171**2
    large_solution, large_fit = results()
    np.testing.assert_allclose(large_solution.theta, solution.theta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(large_solution.s2, solution.s2, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(large_solution.status, solution.status)
    for field in fields(LabelFit):
        values = getattr(fit, field.name)
        np.testing.assert_allclose(getattr(large_fit, field.name), values, rtol=1e-5, atol=1e-8, err_msg=field.name)
