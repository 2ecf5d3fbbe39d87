"""Posterior draws of theta and s, for `CannonModel`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.model.files import ModelFiles
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.one_pixel import star_precisions, whole_scatter

if TYPE_CHECKING:
    import xarray as xr

    from bayes_cannon.io.posterior_tree import Subject
    from bayes_cannon.posterior.settings import ChainSettings
    from bayes_cannon.posterior.theta.density import ThetaRun

DRAWS_LIMIT = 200e6
"""Bytes up to which draws are kept without being asked for."""
_LAPLACE = "laplace"


class SamplingWarning(BayesCannonWarning):
    """Some pixels have no posterior, or draws that cannot be trusted."""


class StaleCalibrationWarning(BayesCannonWarning):
    """The model has forgotten its calibration, because it was that of other label errors."""


class ThetaSampling(ModelFiles):
    """The posterior of theta and s, sampled, read and forgotten."""

    _integrate_theta: bool = True

    @property
    def integrate_theta(self) -> bool:
        """Whether labels are inferred with theta integrated out (`labelling.theta_errors`).

        True at first. Where a change alters the errors of labels, the model forgets a calibration of the former ones,
        with a `StaleCalibrationWarning`.
        """
        return self._integrate_theta

    @integrate_theta.setter
    def integrate_theta(self, wanted: bool) -> None:
        if bool(wanted) != self._integrate_theta and self._posterior is not None:
            self._forget_calibration("integrate_theta has changed")
        self._integrate_theta = bool(wanted)

    @property
    def posterior(self) -> ThetaPosterior | None:
        """Summary of the last `sample`, of all pixels; None before, and after training again.

        Where none was sampled it is NaN and its status ``NO_INFORMATION``. Of a model that was read from a file it
        has what labels need: mean and covariance of theta, the mean of s^2, and the status; the rest is NaN.
        """
        return self._posterior

    def sample(
        self,
        *,
        key: Any = 0,
        method: str = "nuts",
        pixels: Any = None,
        n_chains: int = 4,
        n_warmup: int = 150,
        n_draws: int = 500,
        theta_0: tuple[float, float] | None = None,
        s_scale: float | np.ndarray | None = None,
        store: str | os.PathLike | None = None,
        keep_draws: bool | None = None,
        overwrite: bool = False,
        progress: ProgressOption = None,
    ) -> "xr.DataTree":
        r"""Draws from the posterior of theta and s of every pixel, with the priors

        .. math:: \theta_0 \sim \mathrm{Normal}(m, t), \qquad \theta_d \sim \mathrm{Laplace}(0, 2 / \Lambda)
                  \ (d \ge 1), \qquad s \sim \mathrm{HalfNormal}(h)

        Without regularization theta_d is flat. The model keeps the summary (`posterior`) until it is trained again.
        With correlated scatter s^2 is the whole variance of the scatter of a pixel, and each pixel is taken by itself;
        how close that is to all of them together is stated in `posterior.theta.sample`. With heavy tails the variances
        of a training star are divided by the weight tau that training gave it (``constant_data/precision``); the draws
        are conditioned on these weights, and are not wider for what is not known of them.

        Parameters
        ----------
        key
            Integer seed or JAX key.
        method
            ``"nuts"``; ``"hmc"``, with trajectories of fixed length; ``"psis"``, the fastest: importance
            sampling of the normal law of expectation propagation, with chains at the pixels where the Pareto k-hat of
            the weights says that it is not good enough. It takes the place of a Laplace approximation, which the kink
            of the Laplace prior at zero makes useless; ``"laplace"`` is another name for it.
        pixels
            Which pixels: indices or a mask of shape (pixel,); all by default.
        n_chains, n_warmup, n_draws
            Chains of each pixel, and draws of each chain that are forgotten and that are kept. Far fewer than 500 are
            too few for R-hat to tell good chains from bad ones: pixels are then sampled twice and flagged in vain.
            Pixels are sampled in blocks of 32, so that a few take as long as one block.
        theta_0
            Mean m and standard deviation t, of all pixels. By default the mean training flux at the pixel and ten
            times its standard deviation.
        s_scale
            h, one or one per pixel of the model. By default three times that standard deviation.
        store
            Zarr store to write to, block by block. If it exists, and holds a part of the same run, the run goes on
            from there, and ends with the draws that it would have had without a break. Needs ``bayes-cannon[zarr]``.
        keep_draws
            Whether the draws are kept, in memory or in the store; by default if they have less than 200 MB. The
            summary of every pixel always is.
        overwrite
            Replace a store that exists.
        progress
            True for a bar on the standard error, or a function that is called with the number of pixels finished.

        Returns
        -------
        tree
            An ``xarray.DataTree`` as ArviZ takes it (`io.posterior_tree`). That of a store is read when it is used.

        Warns
        -----
        SamplingWarning
            If pixels have no posterior, or one that cannot be trusted.
        StaleCalibrationWarning
            If the model was calibrated with other errors of labels: calibrate again.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        TypeError
            If it holds no training spectra, or the key is neither an integer nor a JAX key.
        ValueError
            For an unknown method, pixels that are not there, numbers of chains or draws that are too small, priors
            without a positive width, bounds on theta, and a store of another run.
        ImportError
            For a store where the extra ``bayes-cannon[zarr]`` is not installed.

        """
        # NumPyro and xarray take a second to import.
        from bayes_cannon.io.posterior_store import StoredPosterior
        from bayes_cannon.io.posterior_tree import MemoryPosterior, theta_posterior
        from bayes_cannon.posterior.settings import ChainSettings
        from bayes_cannon.posterior.theta.sample import PIXELS_AT_ONCE

        _check_counts(n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws)
        settings = ChainSettings(n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws)
        setup = self._setup(key, method, settings, theta_0, s_scale)
        chosen = _chosen_pixels(pixels, setup.problem.n_pixels)
        subject = self._subject(setup, chosen, PIXELS_AT_ONCE)
        keep = subject.draws_size < DRAWS_LIMIT if keep_draws is None else bool(keep_draws)
        kept: MemoryPosterior | StoredPosterior
        if store is None:
            kept = MemoryPosterior(subject, keep)
        else:
            kept = StoredPosterior.open(
                Path(store), subject, keep_draws=keep, block=PIXELS_AT_ONCE, overwrite=overwrite
            )  # fmt: skip
        _fill(kept, setup, chosen, progress)
        tree = kept.tree()
        posterior = theta_posterior(tree, setup.problem.n_pixels)
        self._keep_posterior(posterior)
        _warn_of_statuses(posterior.status[chosen], chosen)
        return tree

    def use_posterior(self, posterior: "xr.DataTree | str | os.PathLike") -> None:
        """Take the posterior of theta from a tree that `sample` returned, or from a file or store that holds one.

        Warns
        -----
        StaleCalibrationWarning
            As in `sample`.

        Raises
        ------
        FileNotFoundError
            If nothing is at the path.
        NotTrainedError
            If the model is not trained.
        ValueError
            If it is no posterior, or that of another model, naming what differs.

        """
        from bayes_cannon.io.posterior_tree import check_model, check_posterior, read_posterior, theta_posterior

        theta, _ = self._trained()
        if isinstance(posterior, str | os.PathLike):
            with read_posterior(posterior) as tree:
                check_model(tree.attrs, self._hashes(), f"the posterior {os.fspath(posterior)}")
                self._keep_posterior(theta_posterior(tree, len(theta)))
        else:
            check_posterior(posterior, "the tree")
            check_model(posterior.attrs, self._hashes(), "the posterior")
            self._keep_posterior(theta_posterior(posterior, len(theta)))

    def _keep_posterior(self, posterior: ThetaPosterior) -> None:
        before, self._posterior = self._posterior, posterior
        if self.integrate_theta and (before is None or not _equal_for_labels(before, posterior)):
            self._forget_calibration("the posterior of theta is another one")

    def _forget_calibration(self, why: str) -> None:
        if self._calibration is not None:
            self._calibration = None
            warn_user(
                f"the calibration is forgotten, as {why} and with it the errors of labels: call calibrate() again",
                StaleCalibrationWarning,
            )

    def _label_model(self) -> dict[str, Any]:
        """What the test step takes of the training: with the posterior of theta, where it is there and wanted."""
        theta, s2 = self._trained()
        arrays: dict[str, Any] = {"theta": theta, "s2": s2, "correlation": self._correlation}
        if self._posterior is None or not self.integrate_theta:
            return arrays
        known = np.isfinite(self._posterior.mean).all(axis=1) & np.isfinite(theta).all(axis=1)
        arrays["theta"] = np.where(known[:, None], self._posterior.mean, theta)
        arrays["theta_covariance"] = np.where(known[:, None, None], self._posterior.covariance, 0.0)
        if self._correlation is None:
            arrays["s2"] = np.where(known, self._posterior.s2, s2)
        return arrays

    def _setup(
        self, key: Any, method: str, settings: "ChainSettings", theta_0: tuple[float, float] | None,
        s_scale: float | np.ndarray | None,
    ) -> "ThetaRun":  # fmt: skip
        from bayes_cannon.posterior.theta.density import ThetaRun
        from bayes_cannon.posterior.theta.priors import ThetaPriors

        theta, s2 = self._trained()
        problem = self._problem()
        bounded = problem.free & (np.isfinite(problem.lower) | np.isfinite(problem.upper))
        if bounded.any():
            pixel, term = np.argwhere(bounded)[0]
            bounds = float(problem.lower[pixel, term]), float(problem.upper[pixel, term])
            raise ValueError(
                f"sample knows no bounds on theta, and the term {self._terms()[term]} has the bounds {bounds} "
                f"at pixel {pixel}: remove them from theta_bounds and train again"
            )
        return ThetaRun.from_problem(
            problem, theta=theta, s2=whole_scatter(problem, s2, self._correlation),
            priors=ThetaPriors.weak(problem, theta_0, s_scale), method="psis" if method == _LAPLACE else method,
            settings=settings, precision=star_precisions(problem, theta, s2, self._correlation), key=_checked_key(key),
        )  # fmt: skip

    def _subject(self, setup: "ThetaRun", pixels: np.ndarray, block: int) -> "Subject":
        from bayes_cannon.io.posterior_tree import Subject, model_hashes

        problem, priors, chains = setup.problem, setup.priors, setup.settings
        scales = priors.theta_0, priors.theta_0_scale, priors.s_scale
        constant: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            "labels": (("star", "label"), self._labels),
            "design": (("star", "term"), problem.design),
            "free": (("pixel", "term"), problem.free[pixels]),
            "regularization": (("pixel",), problem.regularization[pixels]),
        }
        for name, values in zip(("theta_0_mean", "theta_0_scale", "s_scale"), scales, strict=True):
            constant[name] = ("pixel",), values[pixels]
        if setup.precision is not None:
            constant["precision"] = ("star",), setup.precision
        settings: dict[str, str | int | float] = {
            "method": setup.method, "n_chains": chains.n_chains, "n_warmup": chains.n_warmup,
            "n_draws": chains.n_draws, "key": _key_text(setup.seed), "block": block,
            **model_hashes(pixels=pixels.astype(float), priors=scales),
        }  # fmt: skip
        wavelength = None if self._dispersion is None else self._dispersion[pixels]
        return Subject(
            pixels, self._terms(), self.label_names, self._label_units, wavelength, problem.flux[:, pixels],
            problem.ivar[:, pixels], constant, settings, self._hashes(),
        )  # fmt: skip

    def _terms(self) -> list[str]:
        """Texts of the terms, the constant being "1"."""
        readable = getattr(self._vectorizer, "readable_terms", None)
        return list(readable) if readable else [str(d) for d in range(len(self._vectorizer.exponents))]

    def _hashes(self) -> dict[str, str]:
        """What tells this model from others."""
        from bayes_cannon.io.model_file import training_set_hash
        from bayes_cannon.io.posterior_tree import model_hashes

        theta, s2 = self._trained()
        spectra = self._provenance.get("training_set_sha256")
        if self._flux is not None and self._ivar is not None:
            spectra = training_set_hash(self._labels, self._flux, self._ivar)
        scaling = np.concatenate([self._scaling.fiducial, self._scaling.scale, [self._scaling.factor]])
        regularization = np.asarray(0.0 if self._regularization is None else self._regularization)
        lower, upper = self._bounds()
        return model_hashes(
            theta=theta, s2=s2, scaling=scaling, terms=[*self.label_names, self._vectorizer.exponents],
            training_set=spectra, regularization=np.broadcast_to(regularization, s2.shape), censors=lower < upper,
        )  # fmt: skip


def _equal_for_labels(one: ThetaPosterior, other: ThetaPosterior) -> bool:
    return all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=0.0, equal_nan=True)
        for name in ("mean", "covariance", "s2")
    )


def _fill(kept: Any, setup: "ThetaRun", chosen: np.ndarray, progress: ProgressOption) -> None:
    """Sample what is not there yet, block after block."""
    from bayes_cannon.posterior.theta.sample import sample_pixels

    finished = np.zeros(setup.problem.n_pixels, dtype=bool)
    finished[chosen] = kept.resumable
    with reporter(progress, int((~finished[chosen]).sum()), "pixel") as report:
        for block in sample_pixels(setup, chosen, finished):
            kept.write(block)
            if report is not None:
                report(len(block.pixels))


def _check_counts(**counts: int) -> None:
    # R-hat and sample sizes split each chain in two and need variances of the halves.
    for name, least in (("n_chains", 1), ("n_warmup", 0), ("n_draws", 4)):
        if not isinstance(counts[name], int | np.integer) or counts[name] < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {counts[name]!r}")


def _chosen_pixels(pixels: Any, n_pixels: int) -> np.ndarray:
    """Numbers of the pixels in ascending order."""
    if pixels is None:
        return np.arange(n_pixels)
    chosen = np.atleast_1d(np.asarray(pixels))
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


def _checked_key(key: Any) -> Any:
    if isinstance(key, bool) or not (isinstance(key, int | np.integer) or hasattr(key, "dtype")):
        raise TypeError(f"key must be an integer or a JAX key, got {key!r}")
    return key


def _key_text(key: Any) -> str:
    """The key as a text that tells it from others."""
    import jax

    if isinstance(key, int | np.integer):
        return str(key)
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
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
