"""The model as NumPyro programs: of one pixel (`pixel.pixel`), of whole spectra whose pixels share
latent factors (`spectrum.spectrum`) and of one star (`star.star`).

They are the statement of the model. Every fast path elsewhere is tested against their log density.
"""

import sys

import numpyro.infer


def _complete(package: str) -> None:
    """Give every loaded package its loaded modules as attributes.

    ArviZ puts NumPyro into ``sys.modules`` unexecuted. Where one of its subpackages is imported next, Python executes
    it twice, and the second copy lacks the modules that the first has loaded: NumPyro itself then looks in vain for
    ``numpyro.distributions.distribution``.
    """
    for name, module in tuple(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        if name.startswith(f"{package}.") and parent in sys.modules and not hasattr(sys.modules[parent], child):
            setattr(sys.modules[parent], child, module)


_complete(numpyro.__name__)
