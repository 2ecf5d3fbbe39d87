"""What is of use outside of the original package's ``utils``."""

from collections.abc import Iterable
from hashlib import md5
from typing import Any

__all__ = ["short_hash"]


def short_hash(contents: Any) -> str:
    """The first ten hexadecimal digits of the MD5 sum of the text of each item, one after the other.

    Examples
    --------
    >>> tc.utils.short_hash(["A", "B"])
    '7fc56270e79d5ed678fe'

    """
    items = contents if isinstance(contents, Iterable) else [contents]
    return "".join(md5(str(item).encode(), usedforsecurity=False).hexdigest()[:10] for item in items)


def __getattr__(name: str) -> Any:
    if name == "wrapper":
        raise AttributeError(
            "utils.wrapper of the original package is not here: train, test and sample take progress=True, and a loop "
            "of your own tqdm.tqdm"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
