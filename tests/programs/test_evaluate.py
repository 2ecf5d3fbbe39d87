"""Programs that several threads evaluate at once do not see each other's sites."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.testing import assert_allclose
from numpyro.infer import util
from scipy import stats

from bayes_cannon.programs.evaluate import constrained, log_density, potential_energy, sites_of


def program(observed, *, width=1.0):
    """A scale and a mean; the pause lets other threads come in between."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    time.sleep(0.02)
    mean = numpyro.sample("mean", dist.Normal(0.0, width))
    numpyro.deterministic("double", 2 * mean)
    numpyro.sample("flux", dist.Normal(mean, scale), obs=observed)


def reference(scale, mean, observed, width):
    prior = stats.lognorm.logpdf(scale, 1.0) + stats.norm.logpdf(mean, 0, width)
    return prior + stats.norm.logpdf(observed, mean, scale)


def test_eight_threads_find_what_one_would():
    means = np.linspace(-1, 1, 8)

    def work(mean):
        values = {"scale": 0.5, "mean": mean}
        found = float(log_density(program, values, 0.3, width=2.0))
        free = {"scale": np.log(0.5), "mean": mean}
        energy = float(potential_energy(program, free, 0.3, width=2.0))
        double = float(constrained(program, free, 0.3)["double"])
        return found, energy, double, sorted(sites_of(program, 0.3))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, means))
    for mean, (found, energy, double, names) in zip(means, results, strict=True):
        expected = reference(0.5, mean, 0.3, 2.0)
        assert_allclose(found, expected, rtol=1e-5)
        assert_allclose(-energy, expected + np.log(0.5), rtol=1e-5)  # the Jacobian of the logarithm
        assert_allclose(double, 2 * mean, atol=1e-6)
        assert names == ["double", "flux", "mean", "scale"]


def test_the_same_numbers_as_numpyro():
    values = {"scale": 0.7, "mean": 0.1}
    assert log_density(program, values, 0.3) == util.log_density(program, (0.3,), {}, values)[0]
