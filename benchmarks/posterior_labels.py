"""Posteriors of the labels of many stars, beside NumPyro's NUTS with its defaults on the program of a star.

uv run python benchmarks/posterior_labels.py
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from common import arguments, machine, measured, median_seconds, number, publish, seconds, table
from numpyro.infer import MCMC, NUTS

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.diagnostics import convergence
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.labels.sample import sample_star_labels
from bayes_cannon.posterior.settings import LABEL_CHAINS
from bayes_cannon.programs.star import star
from bayes_cannon.scatter import IndependentScatter

NOISE, N_TRAINING = 0.02, 1500
CASES = ((3, 296), (5, 7214))
"""Labels and pixels: those of Gaia XP, and of APOGEE."""


@dataclass(frozen=True)
class Spectra:
    """A quadratic model and spectra drawn from it."""

    vectorizer: PolynomialVectorizer
    training: np.ndarray
    theta: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray

    @classmethod
    def drawn(cls, n_labels: int, n_pixels: int, n_stars: int) -> "Spectra":
        """Spectra with normal noise; theta and the labels are drawn too."""
        rng = np.random.default_rng(0)
        vectorizer = PolynomialVectorizer([f"L{k}" for k in range(n_labels)], 2)
        training = rng.normal(0, 0.25, (N_TRAINING, n_labels))
        theta = rng.normal(0, 0.05, (n_pixels, vectorizer.n_terms))
        theta[:, 0], theta[:, 1 + n_labels :] = 1, 0.5 * theta[:, 1 + n_labels :]
        x = rng.normal(0, 0.25, (n_stars, n_labels))
        flux = vectorizer(x).T @ theta.T + NOISE * rng.normal(size=(n_stars, n_pixels))
        return cls(vectorizer, training, theta, flux, np.full(flux.shape, NOISE**-2))


def ours(n_labels: int, n_pixels: int, n_stars: int, repeats: int) -> dict:
    spectra = Spectra.drawn(n_labels, n_pixels, n_stars)
    names, terms = spectra.vectorizer.label_names, Terms(spectra.vectorizer.exponents, spectra.training)
    scaling = LabelScaling(np.zeros(n_labels), np.ones(n_labels))
    trained = TrainedModel(spectra.theta, np.zeros(n_pixels), IndependentScatter(), terms, scaling)
    prior = LabelPrior.of_labels("flat", label_names=names, scaling=scaling, training_labels=spectra.training)

    def sample():
        return sample_star_labels(spectra.flux, spectra.ivar, trained=trained, prior=prior, key=0)

    first, _ = seconds(sample)
    time, posterior = median_seconds(sample, repeats)
    return {
        "seconds": time, "first": first, "ess": float(np.nansum(posterior.ess_bulk.min(axis=1))),
        "worst": float(np.nanmin(posterior.ess_bulk)), "r_hat": float(np.nanmax(posterior.r_hat)),
        "flagged": int((posterior.status > 1).sum()), "steps": float(posterior.stats["n_steps"].mean()),
    }  # fmt: skip


def defaults(n_labels: int, n_pixels: int, n_stars: int) -> dict:
    """NUTS as NumPyro has it: a diagonal mass matrix is adapted, each step takes all pixels, chains run together."""
    spectra = Spectra.drawn(n_labels, n_pixels, n_stars)
    settings = LABEL_CHAINS
    program = partial(star, exponents=spectra.vectorizer.exponents)
    with jax.enable_x64(True):
        mcmc = MCMC(
            NUTS(program), num_warmup=settings.n_draws, num_samples=settings.n_draws, num_chains=settings.n_chains,
            chain_method="vectorized", progress_bar=False, jit_model_args=True,
        )  # fmt: skip

        def sample(row: int) -> np.ndarray:
            mcmc.run(jax.random.key(row), spectra.theta, np.zeros(n_pixels), spectra.ivar[row], spectra.flux[row])
            return np.asarray(mcmc.get_samples(group_by_chain=True)["x"])

        first, _ = seconds(lambda: sample(0))
        time, draws = seconds(lambda: [sample(row) for row in range(n_stars)])
    found = convergence(np.stack(draws, axis=2))
    return {
        "seconds": time, "first": first, "ess": float(found.ess_bulk.min(axis=1).sum()),
        "worst": float(found.ess_bulk.min()), "r_hat": float(found.r_hat.max()),
    }  # fmt: skip


def row(work: str, n_labels: int, n_pixels: int, n_stars: int, result: dict) -> list[str]:
    return [
        work, str(n_stars), str(n_labels), str(n_pixels), str(LABEL_CHAINS.n_chains * LABEL_CHAINS.n_draws),
        number(result["seconds"]), number(result["first"]), number(result["ess"] / result["seconds"]),
        number(result["worst"]), number(result["r_hat"], 5), number(result.get("steps")),
        str(result.get("flagged", "-")), number(result["memory"]),
    ]  # fmt: skip


HEADER = [
    "work", "stars", "labels", "pixels", "draws a star", "time, s", "first run, s", "bulk ESS/s", "smallest ESS",
    "largest R-hat", "leapfrog steps a draw", "flagged stars", "peak memory, GB",
]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stars", type=int, default=1000)
    parser.add_argument("--default-stars", type=int, default=4, help="of NumPyro's defaults; 0: leave it out")
    given = parser.parse_args()
    repeats, rows = given.repeats or 3, []
    about = measured(machine)["text"]
    for n_labels, n_pixels in CASES:
        result = measured(ours, n_labels, n_pixels, given.stars, repeats)
        rows.append(row("bayes_cannon, NUTS", n_labels, n_pixels, given.stars, result))
        if given.default_stars:
            result = measured(defaults, n_labels, n_pixels, given.default_stars)
            rows.append(row("NumPyro's NUTS, defaults", n_labels, n_pixels, given.default_stars, result))
    what = (
        f"Quadratic models, flat prior, {LABEL_CHAINS.n_chains} chains of {LABEL_CHAINS.n_draws} draws after "
        f"{LABEL_CHAINS.n_warmup} of warm-up (NumPyro: {LABEL_CHAINS.n_draws}). Median of {repeats} warm runs. The "
        "effective sample size is that of each star's worst label, summed over the stars."
    )
    publish("posterior labels", [about, what, table(HEADER, rows)], write=given.write)


if __name__ == "__main__":
    main()
