"""Names of the bits of flag columns in survey catalogues, and the numbers that they stand for.

APOGEE: ``STARFLAG``, ``ANDFLAG``, ``ASPCAPFLAG``, ``PARAMFLAG`` and ``ELEMFLAG`` of data release 17
(https://www.sdss4.org/dr17/irspec/apogee-bitmasks), where the column ``FE_H_FLAG`` and those like ``MG_FE_FLAG`` have
the bits of ``ELEMFLAG``. Other surveys give their bits no names, such as GALAH ``flag_sp``; there, and in any column, a
bit is its number.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np

_STARFLAG = {
    "BAD_PIXELS": 0, "COMMISSIONING": 1, "BRIGHT_NEIGHBOR": 2, "VERY_BRIGHT_NEIGHBOR": 3, "LOW_SNR": 4,
    "PERSIST_HIGH": 9, "PERSIST_MED": 10, "PERSIST_LOW": 11, "PERSIST_JUMP_POS": 12, "PERSIST_JUMP_NEG": 13,
    "SUSPECT_RV_COMBINATION": 16, "SUSPECT_BROAD_LINES": 17, "BAD_RV_COMBINATION": 18, "RV_REJECT": 19,
    "RV_SUSPECT": 20, "MULTIPLE_SUSPECT": 21, "RV_FAIL": 22, "SUSPECT_ROTATION": 23, "MTPFLUX_LT_75": 24,
    "MTPFLUX_LT_50": 25,
}  # fmt: skip
_ASPCAPFLAG = {
    "TEFF_WARN": 0, "LOGG_WARN": 1, "VMICRO_WARN": 2, "M_H_WARN": 3, "ALPHA_M_WARN": 4, "C_M_WARN": 5, "N_M_WARN": 6,
    "STAR_WARN": 7, "CHI2_WARN": 8, "COLORTE_WARN": 9, "ROTATION_WARN": 10, "SN_WARN": 11, "SPEC_HOLE_WARN": 12,
    "ATMOS_HOLE_WARN": 13, "VSINI_WARN": 14, "TEFF_BAD": 16, "LOGG_BAD": 17, "VMICRO_BAD": 18, "M_H_BAD": 19,
    "ALPHA_M_BAD": 20, "C_M_BAD": 21, "N_M_BAD": 22, "STAR_BAD": 23, "CHI2_BAD": 24, "COLORTE_BAD": 25,
    "ROTATION_BAD": 26, "SN_BAD": 27, "SPEC_HOLE_BAD": 28, "ATMOS_HOLE_BAD": 29, "VSINI_BAD": 30,
    "NO_ASPCAP_RESULT": 31, "MISSING_APSTAR": 32, "NO_GRID": 33, "BAD_FRAC_LOWSNR": 34, "BAD_FRAC_BADPIX": 35,
    "FERRE_FAIL": 36, "PROBLEM_TARGET": 40, "MULTIPLE_SUSPECT": 41,
}  # fmt: skip
_PARAMFLAG = {
    "GRIDEDGE_BAD": 0, "CALRANGE_BAD": 1, "OTHER_BAD": 2, "FERRE_FAIL": 3, "PARAM_MISMATCH_BAD": 4,
    "FERRE_ERR_USED": 5, "TEFF_CUT": 6, "GRIDEDGE_WARN": 8, "CALRANGE_WARN": 9, "OTHER_WARN": 10, "FERRE_WARN": 11,
    "PARAM_MISMATCH_WARN": 12, "OPTICAL_WARN": 13, "ERR_WARN": 14, "FAINT_WARN": 15, "PARAM_FIXED": 16, "RV_WARN": 17,
    "SPEC_RC": 24, "SPEC_RGB": 25, "LOGG_CAL_MS": 26, "LOGG_CAL_RGB_MS": 27,
}  # fmt: skip
_TABLES = {
    "STARFLAG": _STARFLAG, "ANDFLAG": _STARFLAG, "ASPCAPFLAG": _ASPCAPFLAG, "PARAMFLAG": _PARAMFLAG,
    "ELEMFLAG": _PARAMFLAG,
}  # fmt: skip
_LAST_BIT = 63


def bit_names(column: str) -> Mapping[str, int]:
    """Number of each bit of a flag column by its name; none where they have no names."""
    plain = column.upper().split("[")[0]
    if plain == "FE_H_FLAG" or plain.endswith("_FE_FLAG"):
        return _PARAMFLAG
    return _TABLES.get(plain, {})


def bit_mask(column: str, bits: Sequence[str | int]) -> int:
    """Sum of ``2^bit`` over bits of a column that are given by name or by number, counted from 0.

    Raises
    ------
    ValueError
        For a name that the column does not have, with the nearest that it has, or a number above 63.

    """
    known, numbers = bit_names(column), set()
    for bit in bits:
        if isinstance(bit, str) and bit not in known:
            near = get_close_matches(bit, known, n=1)
            has = f"it has {', '.join(known)}" if known else "no names of its bits are known: give their numbers"
            raise ValueError(f"{column} has no bit {bit!r}; {f'did you mean {near[0]!r}?' if near else has}")
        number = known[bit] if isinstance(bit, str) else bit
        if not 0 <= number <= _LAST_BIT:
            hint = f": {number} is the value of bit {number.bit_length() - 1}" if number.bit_count() == 1 else ""
            raise ValueError(f"{column} has no bit {number}; bits are counted from 0 to {_LAST_BIT}{hint}")
        numbers.add(number)
    return sum(1 << number for number in numbers)


def has_bits(flags: np.ndarray, mask: int) -> np.ndarray:
    """Which flags have one of the bits of a mask.

    Parameters
    ----------
    flags
        Integers. Negative ones above ``-2^31`` are taken as 32 bits of which the last is set, as an APOGEE
        ``ASPCAPFLAG`` of up to data release 16 with ``NO_ASPCAP_RESULT``.
    mask
        What `bit_mask` returned.

    """
    whole = np.asarray(flags, dtype=np.int64)
    of_32_bits = (whole < 0) & (whole >= -(1 << 31))
    whole = np.where(of_32_bits, whole & 0xFFFFFFFF, whole).astype(np.uint64)
    return (whole & np.uint64(mask)) != 0
