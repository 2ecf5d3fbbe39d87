"""Posterior draws of theta and s of a model: what is sampled, where the draws are kept, and what is remembered."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import xarray as xr

from bayes_cannon.core.arguments import check_kind, file_path, flag, whole_number
from bayes_cannon.core.intake import as_array
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.execution.jax_settings import check_key, own_jax_settings
from bayes_cannon.io.posterior_store import StoredPosterior
from bayes_cannon.io.posterior_tree import (
    MemoryPosterior,
    Subject,
    check_model,
    check_posterior,
    model_hashes,
    read_posterior,
    theta_posterior,
)
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet, term_texts
from bayes_cannon.posterior.settings import ChainSettings
from bayes_cannon.posterior.theta.density import ThetaRun
from bayes_cannon.posterior.theta.priors import ThetaPriors, flux_moments
from bayes_cannon.posterior.theta.sample import PIXELS_AT_ONCE, ThetaBlock, competing_modes, sample_pixels
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.training.problem import PixelProblem

DRAWS_LIMIT = 200e6
"""Bytes up to which draws are kept without being asked for."""
LEAST_WEIGHTED = 25
"""Draws of importance sampling, of which a fifth, and five at least, tell the tail of the weights."""
_LAPLACE = "laplace"

Kept = MemoryPosterior | StoredPosterior
"""Where draws are kept."""
Fill = Callable[[Kept, np.ndarray, Callable[[int], object]], None]
"""Samples into the first what the second, a mask (pixel,), does not say is finished, and reports how many pixels."""


class SamplingWarning(BayesCannonWarning):
    """Some pixels have no posterior, or draws that cannot be trusted."""


@dataclass(frozen=True)
class ThetaSampling:
    """What is sampled: the pixels that were asked for, and everything that their draws depend on."""

    stars: TrainingSet
    setup: ThetaRun
    pixels: np.ndarray

    @classmethod
    def checked(
        cls,
        problem: PixelProblem,
        result: TrainingResult,
        *,
        key: Any,
        method: str,
        pixels: Any,
        n_chains: int,
        n_warmup: int,
        n_draws: int,
        theta_0: tuple[float, float] | None,
        s_scale: float | np.ndarray | None,
        moments: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> "ThetaSampling":
        """Check what a user asks for; the parameters and errors are those of `CannonModel.sample`.

        Where the problem has no flux, ``moments`` is what `posterior.theta.priors.flux_moments` returns of it.
        """
        _check_counts(n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws)
        n_chains, n_warmup, n_draws = int(n_chains), int(n_warmup), int(n_draws)
        if method in ("psis", _LAPLACE) and n_chains * n_draws < LEAST_WEIGHTED:
            raise ValueError(
                f"method {method!r} needs at least {LEAST_WEIGHTED} draws, whose weights are smoothed; "
                f"n_chains * n_draws is {n_chains * n_draws}"
            )
        _check_unbounded(problem, result.stars)
        setup = ThetaRun.from_problem(
            problem, theta=result.theta, s2=result.scatter.marginal_variance(problem, result.s2),
            priors=ThetaPriors.of_moments(*(moments or flux_moments(problem)), theta_0=theta_0, s_scale=s_scale),
            method="psis" if method == _LAPLACE else method,
            settings=ChainSettings(n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws),
            precision=result.scatter.star_precisions(problem, result), key=check_key(key),
            several=_several_modes(problem, result),
        )  # fmt: skip
        return cls(result.stars, setup, _chosen_pixels(pixels, problem.n_pixels))

    @cached_property
    def constant_data(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """What the flux is explained by, and the priors, with their dimensions."""
        problem, priors, pixels = self.setup.problem, self.setup.priors, self.pixels
        constant: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            "labels": (("star", "label"), self.stars.labels),
            "design": (("star", "term"), problem.design),
            "free": (("pixel", "term"), problem.free[pixels]),
            "regularization": (("pixel",), problem.regularization[pixels]),
            "theta_0_mean": (("pixel",), priors.theta_0[pixels]),
            "theta_0_scale": (("pixel",), priors.theta_0_scale[pixels]),
            "s_scale": (("pixel",), priors.s_scale[pixels]),
        }
        if self.setup.precision is not None:
            constant["precision"] = ("star",), self.setup.precision
        return constant

    def subject(self, hashes: dict[str, str], block: int) -> Subject:
        """The run as the tree of its draws describes it."""
        problem, priors, chains, stars = self.setup.problem, self.setup.priors, self.setup.settings, self.stars
        settings: dict[str, str | int | float] = {
            "method": self.setup.method, "n_chains": chains.n_chains, "n_warmup": chains.n_warmup,
            "n_draws": chains.n_draws, "key": _key_text(self.setup.seed), "block": block,
            **model_hashes(
                pixels=self.pixels.astype(float), priors=(priors.theta_0, priors.theta_0_scale, priors.s_scale)
            ),
        }  # fmt: skip
        wavelength = None if stars.dispersion is None else stars.dispersion[self.pixels]
        flux, ivar = (array[:, self.pixels] if problem.n_stars else None for array in (problem.flux, problem.ivar))
        return Subject(
            self.pixels, term_texts(stars.vectorizer), stars.label_names, stars.label_units, wavelength,
            flux, ivar, self.constant_data, settings, hashes, stars.dispersion_unit,
        )  # fmt: skip


def _several_modes(problem: PixelProblem, result: TrainingResult) -> np.ndarray | None:
    """Pixels with competing modes, where training looked for them."""
    found = result.certificates
    if found is None or found.n_minima is None or found.margin is None:
        return None
    return competing_modes(problem, found.n_minima, found.margin)


def sample_theta(
    run: ThetaSampling,
    hashes: dict[str, str],
    *,
    store: str | os.PathLike[str] | None,
    keep_draws: bool | None,
    overwrite: bool,
    progress: ProgressOption,
    fill: Fill | None = None,
) -> tuple[xr.DataTree, ThetaPosterior]:
    """Sample the run, in memory or in a store that holds a part of it already.

    Parameters
    ----------
    run
        What is sampled.
    hashes
        Those of the model (`hashes_of`).
    store, keep_draws, overwrite, progress
        As for `CannonModel.sample`.
    fill
        Samples what is not finished; by default by `sample_pixels`.

    Returns
    -------
    tree
        Draws and summary.
    posterior
        The summary of every pixel of the model.

    """
    subject, n_pixels = run.subject(hashes, PIXELS_AT_ONCE), run.setup.problem.n_pixels
    keep = subject.draws_size < DRAWS_LIMIT if keep_draws is None else flag(keep_draws, "keep_draws")
    kept: Kept
    if store is None:
        kept = MemoryPosterior(subject, keep)
    else:
        kept = StoredPosterior.open(
            file_path(store, "store"), subject, keep_draws=keep, block=PIXELS_AT_ONCE, overwrite=overwrite
        )
    finished = np.zeros(n_pixels, dtype=bool)
    finished[run.pixels] = kept.resumable
    with reporter(progress, int((~finished[run.pixels]).sum()), "pixel", "sample theta") as report:
        if fill is None:
            write_blocks(kept, sample_pixels(run.setup, run.pixels, finished), report)
        else:
            fill(kept, finished, report)
    tree = kept.tree()
    posterior = theta_posterior(tree, n_pixels)
    _warn_of_statuses(posterior.status[run.pixels], run.pixels)
    return tree, posterior


def write_blocks(kept: Kept, blocks: Iterable[ThetaBlock], report: Callable[[int], object]) -> None:
    """Keep blocks as they are finished."""
    for block in blocks:
        kept.write(block)
        report(len(block.pixels))


def read_theta_posterior(
    posterior: xr.DataTree | str | os.PathLike[str], hashes: dict[str, str], n_pixels: int
) -> ThetaPosterior:
    """The summary that a tree, a file or a store holds; parameters and errors as for `CannonModel.use_posterior`."""
    if isinstance(posterior, str | os.PathLike):
        with read_posterior(posterior) as tree:
            check_model(tree.attrs, hashes, f"the posterior {os.fspath(posterior)}")
            return theta_posterior(tree, n_pixels)
    check_kind(posterior, xr.DataTree, "posterior", "a tree that CannonModel.sample returned, or the path of one")
    check_posterior(posterior, "the tree")
    check_model(posterior.attrs, hashes, "the posterior")
    return theta_posterior(posterior, n_pixels)


def hashes_of(result: TrainingResult, settings: Settings, spectra_hash: str | None) -> dict[str, str]:
    """Short hashes of everything that a posterior of theta depends on, by name."""
    stars, scaling = result.stars, result.stars.scaling
    lower, upper = settings.bounds(stars)
    lam = np.asarray(0.0 if settings.regularization is None else settings.regularization)
    return model_hashes(
        theta=result.theta, s2=result.s2,
        scaling=np.concatenate([scaling.fiducial, scaling.scale, [scaling.factor]]),
        terms=[*stars.label_names, stars.vectorizer.exponents], training_set=spectra_hash,
        regularization=np.broadcast_to(lam, result.s2.shape), censors=lower < upper,
    )  # fmt: skip


def _check_unbounded(problem: PixelProblem, stars: TrainingSet) -> None:
    bounded = problem.free & (np.isfinite(problem.lower) | np.isfinite(problem.upper))
    if bounded.any():
        pixel, term = np.argwhere(bounded)[0]
        bounds = float(problem.lower[pixel, term]), float(problem.upper[pixel, term])
        text = term_texts(stars.vectorizer)[term]
        raise ValueError(
            f"sample does not support bounds on theta, and the term {text} has the bounds {bounds} at pixel {pixel}: "
            "remove them from theta_bounds and train again"
        )


def _check_counts(**counts: int) -> None:
    # R-hat and sample sizes split each chain in two and need variances of the halves.
    for name, least in (("n_chains", 1), ("n_warmup", 0), ("n_draws", 4)):
        whole_number(counts[name], name, least)


def _chosen_pixels(pixels: Any, n_pixels: int) -> np.ndarray:
    """Numbers of the pixels in ascending order."""
    if pixels is None:
        return np.arange(n_pixels)
    chosen = np.atleast_1d(as_array(pixels, "pixels"))
    if chosen.dtype == bool:
        if chosen.shape != (n_pixels,):
            raise ValueError(f"a mask of pixels must have shape ({n_pixels},), got {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    if chosen.size == 0:
        raise ValueError("pixels names no pixel: give None for all of them")
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise ValueError(f"pixels must be indices or a mask of shape ({n_pixels},), got {pixels!r}")
    outside = chosen[(chosen < 0) | (chosen >= n_pixels)]
    if outside.size:
        raise ValueError(f"pixels names pixel {outside[0]}; the model has the pixels 0 to {n_pixels - 1}")
    numbers, counts = np.unique(chosen, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"pixels names pixel {numbers[np.argmax(counts > 1)]} more than once")
    return numbers.astype(int)


def _key_text(key: Any) -> str:
    """The key as text, different for different keys."""
    if isinstance(key, int | np.integer):
        return str(key)
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    with own_jax_settings():
        return " ".join(map(str, np.asarray(jax.random.key_data(key) if typed else key).ravel()))


def _warn_of_statuses(status: np.ndarray, pixels: np.ndarray) -> None:
    """One warning that counts the pixels of each status that a person should look at."""
    texts = []
    for kind in PosteriorStatus:
        found = pixels[status == kind]
        if kind not in (PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED) and len(found):
            texts.append(f"{len(found)} of {len(pixels)} pixels, the first is pixel {found[0]}: {kind.message}")
    if texts:
        warn_user("; ".join(texts), SamplingWarning)
