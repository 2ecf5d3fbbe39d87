"""Labels of spectra that lie in the rows of a data frame, by pandas' methods; no library of frames is imported."""

from typing import Any

import numpy as np

from bayes_cannon.io.label_export import likelihood_columns
from bayes_cannon.io.label_tables import STAR_ID, label_table
from bayes_cannon.model.any_model import AnyModel


def label_frame(model: AnyModel, frame: Any, flux: str, ivar: str) -> Any:
    """As `CannonModel.label_frame`."""
    n_pixels = int(model.n_pixels or 0)
    for name in (flux, ivar):
        if name not in frame.columns:
            raise ValueError(f"the frame has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    spectra = [_spectra(frame, name, n_pixels) for name in (flux, ivar)]
    known = np.isfinite(spectra[0]) & np.isfinite(spectra[1])
    # A number that is missing is no information, as in masked arrays.
    fit = model.fit_labels(np.where(known, spectra[0], 0.0), np.where(known, spectra[1], 0.0))
    likelihood = likelihood_columns(vars(fit), model.label_names)
    extra = {column: values for columns in likelihood.values() for column, values in columns.items()}
    table = label_table(model.label_names, fit, extra=extra)
    table.remove_columns([STAR_ID, "covariance"])
    others = frame.drop(columns=[flux, ivar])
    taken = [name for name in table.colnames if name in others.columns]
    if taken:
        raise ValueError(f"the frame has a column {taken[0]!r} already, which the labels would replace: rename it")
    columns = {name: np.asarray(table[name]) for name in table.colnames}
    # The type of texts is that of the frame's library, of no rows as of many.
    return others.assign(**columns).astype({name: str for name, values in columns.items() if values.dtype.kind == "U"})


def _spectra(frame: Any, name: str, n_pixels: int) -> np.ndarray:
    """A column as an array (star, pixel); NaN where a row has none."""
    values = np.full((len(frame), n_pixels), np.nan)
    for row, (label, given) in enumerate(zip(frame.index, frame[name], strict=True)):
        is_nan = isinstance(given, float) and np.isnan(given)
        if given is None or is_nan or type(given).__name__ == "NAType":  # Of pandas.
            continue
        try:
            spectrum = np.asarray(given, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name!r} of row {label} of the frame holds no numbers: {error}") from error
        if spectrum.shape != (n_pixels,):
            raise ValueError(
                f"{name!r} of row {label} of the frame must have {n_pixels} pixels, those of the model; its shape is "
                f"{spectrum.shape}"
            )
        values[row] = spectrum
    return values
