"""Sampling of posteriors, for `CannonModel`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayes_cannon.core.checks import check_same_dispersion
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.labelling.batches import spectra_rows
from bayes_cannon.labelling.compressed import TrainedPixels
from bayes_cannon.labelling.theta_errors import ThetaUncertainty
from bayes_cannon.model.files import ModelFiles

if TYPE_CHECKING:
    import xarray as xr


class LabelSampling(ModelFiles):
    """Posteriors of the labels of stars, for `CannonModel`."""

    def sample_labels(
        self,
        flux: Any,
        ivar: Any,
        *,
        key: Any,
        prior: Any = "flat",
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        method: str = "nuts",
        n_chains: int = 4,
        n_draws: int = 500,
        n_warmup: int = 100,
        dispersion: Any = None,
        progress: ProgressOption = None,
    ) -> "xr.DataTree":
        r"""Posterior of the labels of each star, by NUTS on its compressed spectrum.

        The likelihood is that of `test`, of which minus twice the logarithm is chi^2 (Casey et al. 2016, equation 3),
        or :math:`(\nu + n) \ln(1 + \chi^2 / \nu)` where the model has heavy tails. Once the model has a posterior of
        theta, that is integrated out as in `test`, unless `integrate_theta` is False: the likelihood is that of the
        corrected score, as wide as its sandwich covariance says (`labelling.theta_errors`).

        Parameters
        ----------
        flux, ivar
            Normalized in the same way as the training set, shape (star, pixel) or (pixel,).
        key
            Integer or JAX key. What is drawn for a star depends on it and on the row of the star only.
        prior
            ``"flat"``, improper; ``"gaussian"``, with the mean and covariance of the training labels; ``"mixture"``, a
            mixture of normal laws fitted to them (needs scikit-learn); or a NumPyro distribution of the labels in their
            units, event shape (label,).
        bounds
            Lowest and highest value by label name, such as ``{"TEFF": (4000, 5300), "LOGG": (0, None)}``, outside of
            which the prior is zero.
        method
            ``"nuts"`` or ``"hmc"``.
        n_chains, n_draws, n_warmup
            Chains of each star, draws kept of each chain, and draws before, which adapt the step size.
        dispersion
            Wavelengths of these spectra. If given they must be the model's.
        progress
            True for a bar on the standard error, or a function that is called with the number of stars finished.

        Returns
        -------
        tree
            Draws, summary, modes, diagnostics and `PosteriorStatus` of each star, **in label units**, as ArviZ takes
            them (`io.label_tree`).

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model, and for an invalid prior, bounds, method or number of draws.
        ImportError
            For a mixture without scikit-learn.

        """
        # NumPyro and xarray take a second to import.
        from bayes_cannon.io.label_tree import label_tree
        from bayes_cannon.posterior.labels.priors import LabelPrior
        from bayes_cannon.posterior.labels.sample import sample_star_labels
        from bayes_cannon.posterior.settings import LABEL_CHAINS

        trained = self._label_model()  # type: ignore[attr-defined]
        check_same_dispersion(dispersion, self._dispersion)
        flux, ivar = spectra_rows(flux, ivar)
        label_prior = LabelPrior.of_labels(
            prior, bounds, label_names=self.label_names, scaling=self._scaling, training_labels=self._labels
        )
        exponents, x = self._vectorizer.exponents, self._scaling.scaled(self._labels)
        covariance, correlation = trained.pop("theta_covariance", None), trained.pop("correlation")
        pixels = TrainedPixels.from_arrays(**trained, exponents=exponents, x=x, correlation=correlation)
        uncertainty = None
        if covariance is not None:
            uncertainty = ThetaUncertainty.from_labels(covariance, exponents, x, correlation)
        settings = replace(LABEL_CHAINS, kernel=method, n_chains=n_chains, n_draws=n_draws, n_warmup=n_warmup)
        with reporter(progress, len(flux), "star") as report:
            posterior = sample_star_labels(
                flux, ivar, pixels=pixels, exponents=exponents, scaling=self._scaling, prior=label_prior, key=key,
                uncertainty=uncertainty, settings=settings, progress=report,
            )  # fmt: skip
        return label_tree(posterior, self.label_names, self._label_units)
