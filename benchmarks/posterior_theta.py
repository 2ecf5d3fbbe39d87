"""Posteriors of theta and s of many pixels, beside NumPyro's NUTS with its defaults on the program of a pixel.

Case A and the Gaia XP spectra of the demo. Where some of the pixels are run, evenly spread, the time of all is by
extrapolation from whole calls, second runs of pixels that fail their diagnostics included.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import numpyro.distributions as dist
from common import arguments, machine, measured, number, publish, seconds, table
from data import FULL, case_module, spread
from numpyro.infer import MCMC, NUTS
from scatter import NAMES

import bayes_cannon as tc
from bayes_cannon.io.gaia_xp import read_gaia_xp
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.posterior.diagnostics import R_HAT_LIMIT, convergence
from bayes_cannon.posterior.settings import ChainSettings
from bayes_cannon.posterior.theta.density import ThetaRun
from bayes_cannon.posterior.theta.priors import ThetaPriors
from bayes_cannon.posterior.theta.sample import sample_pixels
from bayes_cannon.programs.pixel import PixelPriors, pixel

REGULARIZATION = 1000.0
LEAST_ESS = 400


def case_a() -> tuple[np.ndarray, np.ndarray, np.ndarray, tc.vectorizer.PolynomialVectorizer]:
    """Labels, flux, ivar and vectorizer of case A."""
    return *case_module().case_a(1000, 0), FULL["A"].vectorizer


def demo() -> tuple[np.ndarray, np.ndarray, np.ndarray, tc.vectorizer.PolynomialVectorizer]:
    """The same of the stars of the demo."""
    stars = read_gaia_xp(cuts=read_recipe("gaia-xp-giants").data.cuts, wavelength_range=(4000.0, 9900.0))
    return stars.label_array(NAMES), stars.flux, stars.ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 2)


CASES: dict[str, Callable[[], tuple]] = {"Gaia XP": demo, "A": case_a}


def setup_of(case: str, n_pixels: int, method: str) -> tuple[ThetaRun, int]:
    """Setup for some pixels, trained, and how many pixels there are."""
    labels, flux, ivar, vectorizer = CASES[case]()
    total = flux.shape[1]
    chosen = spread(total, n_pixels)
    model = tc.CannonModel(labels, flux[:, chosen], ivar[:, chosen], vectorizer, regularization=REGULARIZATION)
    model.train()
    problem = model._problem()
    setup = ThetaRun.from_problem(
        problem, theta=model.theta, s2=model.s2,
        priors=ThetaPriors.weak(problem), method=method,
    )  # fmt: skip
    return setup, total


def ours(case: str, n_pixels: int, method: str) -> dict:
    """Time of all pixels, sample sizes and diagnostics; the second call counts, the first compiles."""
    setup, total = setup_of(case, n_pixels, method)
    n_pixels = setup.problem.n_pixels
    sample = lambda: [block.posterior for block in sample_pixels(setup, np.arange(n_pixels))]  # noqa: E731
    first, _ = seconds(sample)
    time, parts = seconds(sample)
    chains = method != "psis"
    size = np.concatenate([np.nanmin(part.ess_bulk, axis=1) for part in parts]) if chains else np.full(1, np.nan)
    r_hat = np.concatenate([np.nanmax(part.r_hat, axis=1) for part in parts]) if chains else np.full(1, np.nan)
    return {
        "pixels": n_pixels, "total": total, "seconds": time * total / n_pixels, "first": first,
        "ess": size.sum() / time, "smallest": size.min(), "r_hat": r_hat.max(),
        "good": 100 * np.mean((r_hat < R_HAT_LIMIT) & (size > LEAST_ESS)) if chains else np.nan,
        "k_hat": np.nan if chains else max(np.nanmax(part.k_hat) for part in parts),
        "flagged": int(sum((part.status > 1).sum() for part in parts)),
    }  # fmt: skip


def defaults(case: str, n_pixels: int) -> dict:
    """NUTS as NumPyro has it: a diagonal mass matrix is adapted, each step takes all stars, chains run together."""
    setup, total = setup_of(case, n_pixels, "nuts")
    settings, problem = ChainSettings(), setup.problem
    priors = setup.priors
    with jax.enable_x64(True):

        def program(flux: jax.Array, ivar: jax.Array, theta_0: jax.Array, width: jax.Array, s: jax.Array) -> None:
            given = PixelPriors(dist.Normal(theta_0, width), s)
            pixel(problem.design, ivar, flux, regularization=REGULARIZATION, priors=given)

        mcmc = MCMC(
            NUTS(program), num_warmup=settings.n_draws, num_samples=settings.n_draws, num_chains=settings.n_chains,
            chain_method="vectorized", progress_bar=False, jit_model_args=True,
        )  # fmt: skip

        def sample(k: int) -> np.ndarray:
            mcmc.run(
                jax.random.key(k), problem.flux[:, k], problem.ivar[:, k], priors.theta_0[k],
                priors.theta_0_scale[k], priors.s_scale[k],
            )  # fmt: skip
            found = mcmc.get_samples(group_by_chain=True)
            return np.concatenate([np.asarray(found["s"])[..., None], np.asarray(found["coefficients"])], axis=-1)

        first, _ = seconds(partial(sample, 0))
        time, draws = seconds(lambda: [sample(k) for k in range(problem.n_pixels)])
    found = convergence(np.stack(draws, axis=2))
    size, r_hat = found.ess_bulk.min(axis=1), found.r_hat.max(axis=1)
    return {
        "pixels": problem.n_pixels, "total": total, "seconds": time * total / problem.n_pixels, "first": first,
        "ess": size.sum() / time, "smallest": size.min(), "r_hat": r_hat.max(),
        "good": 100 * np.mean((r_hat < R_HAT_LIMIT) & (size > LEAST_ESS)),
    }  # fmt: skip


def row(work: str, result: dict) -> list[str]:
    return [
        work, f"{result['pixels']} of {result['total']}", number(result["seconds"]), number(result["first"]),
        number(result["ess"]), number(result["smallest"]), number(result["r_hat"], 5), number(result["good"]),
        str(result.get("flagged", "-")), number(result.get("k_hat")), number(result["memory"]),
    ]  # fmt: skip


HEADER = [
    "work", "pixels", "time of all, s", "first run, s", "bulk ESS/s", "smallest ESS", "largest R-hat",
    f"R-hat < {R_HAT_LIMIT} and ESS > {LEAST_ESS}, %", "flagged pixels", "largest k-hat", "peak memory, GB",
]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--pixels", type=int, default=768, help="of case A by chains; importance sampling takes twice as many"
    )
    parser.add_argument("--default-pixels", type=int, default=2, help="by NumPyro's defaults; 0: leave it out")
    given = parser.parse_args()
    rows, about = [], measured(machine)["text"]
    for case, pixels in (("Gaia XP", 10**6), ("A", given.pixels)):
        rows.append(row(f"{case}: NUTS", measured(ours, case, pixels, "nuts")))
        rows.append(row(f"{case}: importance sampling", measured(ours, case, 2 * pixels, "psis")))
        if given.default_pixels:
            rows.append(row(f"{case}: NumPyro's NUTS, defaults", measured(defaults, case, given.default_pixels)))
    settings = ChainSettings()
    what = (
        f"Λ = {REGULARIZATION:g}, {settings.n_chains} chains of {settings.n_draws} draws after {settings.n_warmup} of "
        f"warm-up (NumPyro: {settings.n_draws}). The effective sample size is that of each pixel's worst parameter, "
        "summed over the pixels and divided by the time that they took."
    )
    publish("posterior theta", [about, what, table(HEADER, rows)], write=given.write)


if __name__ == "__main__":
    main()
