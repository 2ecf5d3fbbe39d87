"""Names of bits of flag columns."""

import numpy as np
import pytest

from bayes_cannon.io.flag_bits import bit_mask, bit_names, has_bits


def test_bits_by_name_and_number():
    # The values that the catalogues of the CDS give (III/286): 512 is PERSIST_HIGH, 16 is LOW_SNR.
    assert bit_mask("STARFLAG", ["PERSIST_HIGH", "LOW_SNR"]) == 512 + 16
    assert bit_mask("ANDFLAG", ["PERSIST_HIGH", 9, 0]) == 512 + 1
    assert bit_mask("ASPCAPFLAG", ["STAR_BAD", "MULTIPLE_SUSPECT"]) == 2**23 + 2**41
    assert bit_mask("flag_sp", [0, 63]) == 1 + 2**63
    assert bit_mask("flag_sp", []) == 0


def test_bits_of_one_parameter_or_element():
    for column in ("PARAMFLAG", "PARAMFLAG[0]", "ELEMFLAG[3]", "FE_H_FLAG", "MG_FE_FLAG"):
        assert bit_mask(column, ["GRIDEDGE_WARN"]) == 2**8
    assert not bit_names("RV_FLAG")


def test_no_bit_has_two_names():
    for column in ("STARFLAG", "ASPCAPFLAG", "PARAMFLAG"):
        numbers = list(bit_names(column).values())
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("column", "bits", "said"),
    [
        ("STARFLAG", ["PERSIST_HI"], r"STARFLAG has no bit 'PERSIST_HI'; did you mean 'PERSIST_HIGH'\?"),
        ("STARFLAG", ["zzz"], "STARFLAG has no bit 'zzz'; it has BAD_PIXELS, COMMISSIONING"),
        ("flag_sp", ["BAD"], "flag_sp has no bit 'BAD'; no names of its bits are known: give their numbers"),
        ("flag_sp", [512], "flag_sp has no bit 512; bits are counted from 0 to 63: 512 is the value of bit 9"),
        ("flag_sp", [-1], "flag_sp has no bit -1"),
    ],
)
def test_bits_that_are_not_there_are_named(column, bits, said):
    with pytest.raises(ValueError, match=said):
        bit_mask(column, bits)


def test_flags_with_a_bit():
    flags = np.array([0, 512, 512 + 4, 4, 2**41, 2**62])
    assert has_bits(flags, 512).tolist() == [False, True, True, False, False, False]
    assert has_bits(flags, 2**62 + 2**41).tolist() == [False, False, False, False, True, True]
    assert has_bits(np.array([-(2**63)]), 2**63).tolist() == [True]


def test_the_last_of_32_bits_sets_no_others():
    """NO_ASPCAP_RESULT in the int32 of older releases is a negative number; MISSING_APSTAR is bit 32."""
    flags = np.array([-(2**31), -(2**31) + 1], dtype=np.int32)
    assert has_bits(flags, bit_mask("ASPCAPFLAG", ["NO_ASPCAP_RESULT"])).all()
    assert not has_bits(flags, bit_mask("ASPCAPFLAG", ["MISSING_APSTAR", "MULTIPLE_SUSPECT"])).any()
    assert has_bits(flags, 1).tolist() == [False, True]
