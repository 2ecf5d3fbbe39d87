"""Progress of long work: nothing, a bar on the standard error, or a function of the caller's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

ProgressOption = bool | Callable[[int], object] | None
"""None or False: silent. True: a bar. A function: called with the number finished since its last call."""


@contextmanager
def reporter(progress: ProgressOption, total: int, unit: str) -> Iterator[Callable[[int], object] | None]:
    """Function to call with the number of pixels or stars finished, or None where nobody listens."""
    if progress is True:
        with tqdm(total=total, unit=unit, dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield progress or None
