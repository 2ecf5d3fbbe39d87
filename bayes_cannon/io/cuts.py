"""Cuts on the stars of a recipe, ``[data.cuts]``: by limits, by bits of flags, by values, and by what is known.

::

    [data.cuts]
    TEFF = { above = 4000.0, below = 5300.0 }
    STARFLAG = { without = ["PERSIST_HIGH", "LOW_SNR"] }
    flag_sp = { is = 0 }
    TELESCOPE = { is = ["apo25m", "lco25m"] }
    VMICRO = { finite = true }
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from bayes_cannon.io.flag_bits import bit_mask, has_bits
from bayes_cannon.io.spectra import Spectra

Cut = Mapping[str, Any]
"""Conditions that all hold: ``above``, ``below``, ``without``, ``is``, ``finite``."""


def passing(spectra: Spectra, cuts: Mapping[str, Cut]) -> tuple[np.ndarray, str]:
    """Which stars pass all cuts, shape (star,), and how many each cut leaves out, in words.

    A value that is not known, NaN or an empty text, passes no cut.

    Raises
    ------
    ValueError
        If the data lack a column, a column of texts is cut by numbers or one of numbers by texts, flags are no
        integers, a bit has no such name, or no star passes.

    """
    passed, said = np.ones(spectra.n_stars, dtype=bool), []
    for name, cut in cuts.items():
        one = _passes(name, _values(spectra, name), cut)
        passed &= one
        if not one.all():
            said.append(f"{name} {int((~one).sum())}")
    if not passed.any():
        by = f" ({', '.join(said)} left out)" if said else ""
        raise ValueError(f"no star of {spectra.n_stars} passes [data.cuts]{by}")
    left_out = int((~passed).sum())
    return passed, f"{left_out} of {spectra.n_stars} stars left out ({', '.join(said)})" if said else ""


def _values(spectra: Spectra, name: str) -> np.ndarray:
    columns = {**spectra.labels, **spectra.identifiers}
    if name not in columns:
        near = get_close_matches(name, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(columns) or "none"
        raise ValueError(f"[data.cuts] names {name!r}, which the data do not have; they have {known}{hint}")
    return columns[name]


def _passes(name: str, values: np.ndarray, cut: Cut) -> np.ndarray:
    are_texts = values.dtype.kind == "U"
    if are_texts and (numeric := {"above", "below", "finite"} & {*cut}):
        raise ValueError(f"[data.cuts] {name} holds texts, such as {str(values[0])!r}: it has no {numeric.pop()!r}")
    passed = values != "" if are_texts else ~np.isnan(values)
    if "above" in cut:
        passed &= values > cut["above"]
    if "below" in cut:
        passed &= values < cut["below"]
    if cut.get("finite"):
        passed &= np.isfinite(values)
    if "is" in cut:
        passed &= np.isin(values, _wanted(name, cut["is"], are_texts))
    if "without" in cut:
        flags = np.zeros(len(values), dtype=np.int64)
        flags[passed] = _integers(name, values[passed])
        passed &= ~has_bits(flags, bit_mask(name, cut["without"]))
    return passed


def _wanted(name: str, given: Any, are_texts: bool) -> list[Any]:
    wanted = given if isinstance(given, list | tuple) else [given]
    if are_texts:
        return [str(value) for value in wanted]
    for value in wanted:
        if isinstance(value, str):
            raise ValueError(f"[data.cuts] {name} holds numbers and cannot be {value!r}")
    return [float(value) for value in wanted]


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    try:
        whole = np.array([int(value) for value in values], dtype=np.int64)
        wrong = np.flatnonzero(whole != values) if values.dtype.kind == "f" else whole[:0]
    except (ValueError, OverflowError):
        whole, wrong = values, np.arange(1)
    if wrong.size:
        raise ValueError(f"[data.cuts] {name} holds no flags with bits: {values[wrong[0]]} is no integer")
    return whole
