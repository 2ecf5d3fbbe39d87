"""Stellar labels from spectra, certified: The Cannon as a probabilistic program."""

import logging
from importlib import import_module

logging.getLogger(__name__).addHandler(logging.NullHandler())  # Where nobody listens nothing is said.

_PUBLIC = {
    "CannonModel": "bayes_cannon.model",
    "LocalCannonModel": "bayes_cannon.model.local",
    "PixelStatus": "bayes_cannon.core.status",
    "PosteriorStatus": "bayes_cannon.core.status",
    "RestrictedCannonModel": "bayes_cannon.restricted",
    "StarStatus": "bayes_cannon.core.status",
    "load_model": "bayes_cannon.model",
    "read_original_model": "bayes_cannon.model.original",
}
_MODULES = (
    "calibration", "censoring", "cli", "continuum", "core", "execution", "fitting", "io", "labelling", "model", "plot",
    "posterior", "programs", "report", "restricted", "scatter", "training", "training_set", "utils", "validate",
    "vectorizer",
)  # fmt: skip

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562), so that ``bayes-cannon --help`` and file tools do not wait for JAX."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return import_module(f"bayes_cannon.{name}")
    if name == "__version__":
        return import_module("importlib.metadata").version("bayes-cannon")
    raise AttributeError(f"module 'bayes_cannon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
