"""Files: trained models, spectra, label tables and recipes. Nothing here is ever pickled or unpickled."""

from importlib import import_module

_PLACES = {
    "GIANTS": "bayes_cannon.io.gaia_xp",
    "Segment": "bayes_cannon.io.readers.survey_spectra",
    "Spectra": "bayes_cannon.io.spectra",
    "SurveySpectra": "bayes_cannon.io.readers.survey_spectra",
    "air_to_vacuum": "bayes_cannon.core.wavelengths",
    "colour_outliers": "bayes_cannon.io.gaia_xp",
    "constant_noise": "bayes_cannon.io.preparation",
    "decode": "bayes_cannon.io.decoding",
    "export_labels": "bayes_cannon.io.label_export",
    "find_grid": "bayes_cannon.io.gridding",
    "ingest": "bayes_cannon.io.ingestion",
    "join_labels": "bayes_cannon.io.joining",
    "label_table": "bayes_cannon.io.label_tables",
    "noise_covariance": "bayes_cannon.io.gridding",
    "on_grid": "bayes_cannon.io.gridding",
    "open_labels": "bayes_cannon.io.label_store",
    "open_spectra": "bayes_cannon.io.survey_files",
    "open_store": "bayes_cannon.io.spectra_store",
    "read_gaia_xp": "bayes_cannon.io.gaia_xp",
    "read_spectra": "bayes_cannon.io.survey_files",
    "read_table": "bayes_cannon.io.tables",
    "resample": "bayes_cannon.core.resampling",
    "survey_spectra_of": "bayes_cannon.io.readers.spectrum_object",
    "to_rest_frame": "bayes_cannon.core.wavelengths",
    "vacuum_to_air": "bayes_cannon.core.wavelengths",
    "write_spectra": "bayes_cannon.io.spectra",
    "write_table": "bayes_cannon.io.tables",
}

__all__ = [
    "GIANTS", "Segment", "Spectra", "SurveySpectra", "air_to_vacuum", "colour_outliers", "constant_noise", "decode",
    "export_labels", "find_grid", "ingest", "join_labels", "label_table", "noise_covariance", "on_grid",
    "open_labels", "open_spectra", "open_store", "read_gaia_xp", "read_spectra", "read_table", "resample",
    "survey_spectra_of", "to_rest_frame", "vacuum_to_air", "write_spectra", "write_table",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562): Astropy's tables and xarray take half a second."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bayes_cannon.io' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
