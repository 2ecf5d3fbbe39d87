"""The model as NumPyro programs.

`pixel.pixel` is the flux of all stars at one pixel, `spectrum.spectrum` that at all pixels with shared latent factors,
`star.star` the spectrum of one star, and `residuals.residuals` the label errors of held-out stars. They state the
model; every faster implementation elsewhere is tested against their log density. `evaluate` runs them, from several
threads if need be.
"""

import sys

import numpyro.infer


def _complete(package: str) -> None:
    """Set every loaded submodule as an attribute of its package, as Python's import normally does.

    ``arviz_base`` imports NumPyro lazily: it puts a module into ``sys.modules`` whose code runs at the first access to
    an attribute. If a submodule such as ``numpyro.infer`` is imported next, that access happens in the middle of the
    import, the code of the package runs twice, and the second copy lacks the submodules that the first had loaded, so
    that ``numpyro.distributions.distribution`` raises an AttributeError. This may be removed once
    ``tests/programs/test_numpyro_is_whole.py`` passes without it, with the oldest ArviZ that the package accepts.
    """
    for name, module in tuple(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if name.startswith(f"{package}.") and parent in sys.modules and not hasattr(sys.modules[parent], child):
            setattr(sys.modules[parent], child, module)


_complete(numpyro.__name__)
