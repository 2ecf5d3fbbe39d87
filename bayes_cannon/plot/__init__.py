"""Figures. They need the extra ``bayes-cannon[plots]``, which is imported when the first figure is made.

Every function returns a ``matplotlib.figure.Figure`` that is made without pyplot: ``figure.savefig(path)`` writes it.
"""

from importlib import import_module

_PLACES = {
    "label_space": "bayes_cannon.plot.label_space",
    "one_to_one": "bayes_cannon.plot.comparison",
    "scatter": "bayes_cannon.plot.training",
    "spectrum": "bayes_cannon.plot.star",
    "theta": "bayes_cannon.plot.training",
}

__all__ = ["label_space", "one_to_one", "scatter", "spectrum", "theta"]


def __getattr__(name: str) -> object:
    """Import on first use (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'bayes_cannon.plot' has no attribute {name!r}")
    # A submodule of the same name takes the attribute when it is imported: the function takes it back.
    globals()[name] = getattr(import_module(_PLACES[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
