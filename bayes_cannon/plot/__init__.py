"""Figures. They need the extra ``bayes-cannon[plots]``, which is imported when the first figure is made.

Every function returns a ``matplotlib.figure.Figure``: ``figure.savefig(path)`` writes it. Where pyplot has been
imported, ``plt.show()`` shows it; the package itself never imports pyplot.
"""

from importlib import import_module

# Not on first use as the others: importing the module of this name would leave it in the function's place.
from bayes_cannon.plot.label_space import label_space

_PLACES = {
    "coverage": "bayes_cannon.plot.honesty",
    "error_sources": "bayes_cannon.plot.honesty",
    "factors": "bayes_cannon.plot.latent",
    "one_to_one": "bayes_cannon.plot.comparison",
    "pulls": "bayes_cannon.plot.honesty",
    "scatter": "bayes_cannon.plot.training",
    "scatter_path": "bayes_cannon.plot.candidates",
    "spectrum": "bayes_cannon.plot.star",
    "theta": "bayes_cannon.plot.training",
    "theta_posterior": "bayes_cannon.plot.posterior",
}

__all__ = ["label_space", *_PLACES]


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bayes_cannon.plot' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
