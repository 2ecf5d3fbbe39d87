"""Solutions in smaller systems against those in whole ones."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.training.certificate import solution_and_pivot
from bayes_cannon.training.profile import active_set as module
from bayes_cannon.training.profile.active_set import solve_on_active
from bayes_cannon.training.profile.settings import SETTINGS

N_PIXELS, N_TERMS = 5, SETTINGS.many_terms + 7


def systems(n_terms):
    rng = np.random.default_rng(n_terms)
    columns = rng.normal(size=(N_PIXELS, 3 * n_terms, n_terms)) * 10.0 ** rng.uniform(-2, 2, n_terms)
    return np.einsum("psd,pse->pde", columns, columns), rng.normal(size=(N_PIXELS, n_terms, 3)), rng


@pytest.mark.parametrize("n_terms", [SETTINGS.many_terms, N_TERMS])
@pytest.mark.parametrize("share", [0.0, 0.02, *[eighths / 8 for eighths in SETTINGS.active_eighths], 0.9, 1.0])
def test_the_same_as_with_all_terms(n_terms, share):
    gram, right, rng = systems(n_terms)
    most = round(share * n_terms)
    active = np.zeros((N_PIXELS, n_terms), bool)
    for pixel, n in enumerate(rng.integers(0, most + 1, N_PIXELS - 1)):
        active[pixel, rng.choice(n_terms, n, replace=False)] = True
    active[-1, rng.choice(n_terms, most, replace=False)] = True
    with jax.enable_x64(True):
        solution, pivot = jax.jit(solve_on_active)(gram, right, active)
        expected, expected_pivot = jax.jit(jax.vmap(solution_and_pivot))(gram, right, active)
    assert_allclose(solution, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    assert_allclose(pivot, expected_pivot, rtol=1e-10)
    assert (np.asarray(solution)[~active] == 0).all()


def test_against_numpy(monkeypatch):
    sizes = []

    def solve(gram, right, mask):
        sizes.append(len(mask))
        return solution_and_pivot(gram, right, mask)

    monkeypatch.setattr(module, "solution_and_pivot", solve)
    gram, right, _ = systems(N_TERMS)
    active = np.zeros((N_PIXELS, N_TERMS), bool)
    active[:, 3:60:7] = True
    with jax.enable_x64(True):
        solution, _ = solve_on_active(gram, right, active)
    part = np.flatnonzero(active[0])
    expected = np.linalg.solve(gram[:, part[:, None], part], right[:, part])
    assert_allclose(np.asarray(solution)[:, part], expected, rtol=1e-8)
    assert sizes == [18, 27, 45, 71]
