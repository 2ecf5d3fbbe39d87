"""Progress of long work: nothing, a bar on the standard error, or a function of the caller's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from bayes_cannon.core.arguments import check_function

ProgressOption = bool | Callable[[int], object] | None
"""None or False: silent. True: a bar. A function: called with the number finished since its last call."""


@contextmanager
def reporter(progress: ProgressOption, total: int, unit: str) -> Iterator[Callable[[int], object] | None]:
    """Function to call with the number of pixels or stars finished, or None where nobody listens."""
    if progress is not None and not isinstance(progress, bool | np.bool):
        check_function(progress, "progress", "True, False, None or a function of the number finished")
    if progress is True:
        with tqdm(total=total, unit=unit, dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield progress or None
