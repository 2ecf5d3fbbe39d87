"""How a model becomes a file and a file a model."""

import os
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.warnings import BayesCannonWarning
from bayes_cannon.io.model_state import ModelState
from bayes_cannon.model.data import ModelData
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.common_covariance import CommonCovariance
from bayes_cannon.scatter.low_rank import LowRankScatter
from bayes_cannon.training.train import TrainingWarning

if TYPE_CHECKING:
    from bayes_cannon.model.cannon import CannonModel


class ModelFiles(ModelData):
    """Writing and reading of `CannonModel` and the classes made from it."""

    _classes: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        ModelFiles._classes[cls.__name__] = cls

    def write(
        self,
        path: str | os.PathLike,
        include_training_set_spectra: bool = False,
        overwrite: bool = False,
        protocol: int | None = None,
    ) -> None:
        """Write the model to one netCDF (HDF5) file.

        Parameters
        ----------
        path
            File to write.
        include_training_set_spectra
            Keep the training spectra too, so that the model can be trained again after reading.
        overwrite
            Replace a file that exists.
        protocol
            Accepted for old scripts, without effect: nothing is pickled.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.

        """
        from bayes_cannon.io.model_file import write_model  # HDF5 and xarray take half a second to import.

        if not self.is_trained and not include_training_set_spectra:
            warnings.warn(
                "the model is not trained and its training spectra are not written: the file can be used for nothing. "
                "Train first, or write with include_training_set_spectra=True",
                TrainingWarning,
                stacklevel=2,
            )
        write_model(path, self._state(include_training_set_spectra), overwrite=overwrite)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "CannonModel":
        """Read a model that `write` made; a restricted model comes back as one.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no model file, is damaged, or was written by a newer version.

        """
        from bayes_cannon.io.model_file import read_model  # HDF5 and xarray take half a second to import.

        state = read_model(path)
        return cls._classes[state.model_class]._from_state(state)

    def _state(self, with_spectra: bool) -> ModelState:
        from bayes_cannon.io.model_file import training_set_hash  # HDF5 and xarray take half a second to import.

        if self._flux is not None and self._ivar is not None:
            self._provenance["training_set_sha256"] = training_set_hash(self._labels, self._flux, self._ivar)
        return ModelState(
            model_class=type(self).__name__,
            label_names=self.label_names,
            terms=self._vectorizer.terms,
            fiducial=self._scaling.fiducial,
            scale=self._scaling.scale,
            training_set_labels=self._labels,
            scale_factor=self._scaling.factor,
            label_units=self._label_units,
            dispersion=self._dispersion,
            regularization=self._regularization,
            censors=dict(self._censors),
            training_set_flux=self._flux if with_spectra else None,
            training_set_ivar=self._ivar if with_spectra else None,
            theta=self._theta,
            s2=self._s2,
            factors=self.factors,
            factor_noise=getattr(self._learned_scatter, "noise", None),
            floor=getattr(self._learned_scatter, "floor", 1.0),
            nu=self.nu,
            calibration=self._calibration,
            posterior=None if self._posterior is None else self._posterior.packed(),
            scatter=self.scatter,
            training=self._training,
            op_method=self._op_method,
            provenance=self._provenance,
        )

    @classmethod
    def _from_state(cls, state: ModelState) -> Self:
        with warnings.catch_warnings():
            # Whoever trained the model has been told.
            warnings.simplefilter("ignore", BayesCannonWarning)
            model = cls(
                state.training_set_labels, state.training_set_flux, state.training_set_ivar, state.vectorizer,
                scale_factor=state.scale_factor, label_units=state.label_units,
            )  # fmt: skip
        model._scaling = LabelScaling(np.asarray(state.fiducial), np.asarray(state.scale), state.scale_factor)
        model._n_pixels = state.n_pixels
        model.dispersion, model.regularization, model.censors = state.dispersion, state.regularization, state.censors
        model._theta, model._s2, model.scatter = state.theta, state.s2, state.scatter
        if state.factors is not None and state.nu is not None:
            model._learned_scatter = (
                LowRankScatter(state.factors, state.nu)
                if state.factor_noise is None
                else CommonCovariance(state.factors, state.factor_noise, state.nu, state.floor)
            )
        model._calibration = state.calibration
        model._posterior = None if state.posterior is None else ThetaPosterior.from_packed(state.posterior)
        model._training = None if state.training is None else dict(state.training)
        model._op_method = state.op_method
        model._provenance = dict(state.provenance)
        return model
