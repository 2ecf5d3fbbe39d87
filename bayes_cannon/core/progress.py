"""Progress of long work: in the log, and as a bar on the standard error or a function of the caller's."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import numpy as np
from tqdm import tqdm  # Not tqdm.auto, which warns in Jupyter where ipywidgets is not installed.

from bayes_cannon.core.arguments import check_function

ProgressOption = bool | Callable[[int], object] | None
"""None or False: silent. True: a bar. A function: called with the number finished since its last call."""

_SECONDS_BETWEEN_MESSAGES = 60.0
_log = logging.getLogger(__name__)


@contextmanager
def reporter(
    progress: ProgressOption, total: int, unit: str, what: str, *, before: int = 0
) -> Iterator[Callable[[int], object]]:
    """Function to call with the number of pixels or stars finished, after those that were ``before`` this began.

    ``what`` is done, such as "train", is written before the bar, and the log has when it begins and ends and, once a
    minute, how far it is and how long it will take.
    """
    if progress is not None and not isinstance(progress, bool | np.bool):
        check_function(progress, "progress", "True, False, None or a function of the number finished")
    work, start, finished = f"{what}, {total} {unit}{'' if total == 1 else 's'}", monotonic(), before
    said = start

    def report(number: int) -> None:
        nonlocal finished, said
        finished += number
        if finished > before and monotonic() - said > _SECONDS_BETWEEN_MESSAGES:
            said = monotonic()
            left = (said - start) * (total - finished) / (finished - before)
            _log.info("%s: %d done, %s left", work, finished, tqdm.format_interval(left))
        tell(number)

    _log.info("%s", work)
    if progress is True:
        with tqdm(total=total, initial=before, unit=unit, desc=what, dynamic_ncols=True) as bar:
            tell: Callable[[int], object] = bar.update
            yield report
    else:
        tell = progress or (lambda _: None)
        if before:
            tell(before)
        yield report
    _log.info("%s: done in %s", work, tqdm.format_interval(monotonic() - start))
