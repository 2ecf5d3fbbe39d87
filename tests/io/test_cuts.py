"""Which stars pass the cuts of a recipe."""

import numpy as np
import pytest

from bayes_cannon.io.cuts import passing
from bayes_cannon.io.spectra import Spectra


@pytest.fixture
def stars() -> Spectra:
    nan = np.nan
    labels = {
        "TEFF": [4000.0, 4500.0, nan, 5000.0],
        "SNR": [10.0, np.inf, 50.0, 100.0],
        "STARFLAG": [0.0, 512.0, 512.0 + 4, nan],
        "GOOD": [1.0, 0.0, 1.0, 1.0],
    }
    texts = {"TELESCOPE": ["apo25m", "lco25m", "", "apo1m"], "BIG": ["4611686018427387908", "3", "", "1"]}
    return Spectra(np.ones((4, 2)), np.ones((4, 2)), labels=labels, identifiers=texts)


@pytest.mark.parametrize(
    ("name", "cut", "wanted"),
    [
        ("TEFF", {"above": 4000.0}, "0101"),
        ("TEFF", {"above": 4000.0, "below": 5000.0}, "0100"),
        ("TEFF", {"finite": True}, "1101"),
        ("SNR", {"above": 20.0}, "0111"),
        ("SNR", {"above": 20.0, "finite": True}, "0011"),
        ("STARFLAG", {"without": ("PERSIST_HIGH",)}, "1000"),
        ("STARFLAG", {"without": ("BRIGHT_NEIGHBOR",)}, "1100"),
        ("STARFLAG", {"without": (2,)}, "1100"),
        ("STARFLAG", {"without": ("RV_FAIL",)}, "1110"),
        ("STARFLAG", {"is": (0,)}, "1000"),
        ("STARFLAG", {"is": (0, 516)}, "1010"),
        ("GOOD", {"is": (True,)}, "1011"),
        ("TELESCOPE", {"is": ("apo25m", "lco25m")}, "1100"),
        ("BIG", {"without": (2,)}, "0101"),
        ("BIG", {"is": (4611686018427387908,)}, "1000"),
    ],
)
def test_one_cut(stars, name, cut, wanted):
    """What is not known, NaN or an empty text, passes none."""
    passed, said = passing(stars, {name: cut})
    assert passed.tolist() == [one == "1" for one in wanted]
    n = wanted.count("0")
    assert said == f"{n} of 4 stars left out ({name} {n})"


def test_all_cuts_must_hold_and_are_counted(stars):
    passed, said = passing(stars, {"TEFF": {"above": 4200.0}, "SNR": {"finite": True}, "GOOD": {"above": -1.0}})
    assert passed.tolist() == [False, False, False, True]
    assert said == "3 of 4 stars left out (TEFF 2, SNR 1)"
    assert passing(stars, {"GOOD": {"is": (0, 1)}}) == (pytest.approx(np.ones(4)), "")
    assert passing(stars, {})[1] == ""


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ({"TEF": {"above": 1.0}}, r"names 'TEF', which the data do not have; they have TEFF, .*did you mean 'TEFF'"),
        ({"TELESCOP": {"is": ("a",)}}, "did you mean 'TELESCOPE'"),
        ({"TELESCOPE": {"above": 1.0}}, "TELESCOPE holds texts, such as 'apo25m': it has no 'above'"),
        ({"TEFF": {"is": ("hot",)}}, "TEFF holds numbers and cannot be 'hot'"),
        ({"TELESCOPE": {"without": (1,)}}, "TELESCOPE holds no flags with bits: apo25m is no integer"),
        ({"SNR": {"without": (1,)}}, "SNR holds no flags with bits: inf is no integer"),
        ({"STARFLAG": {"without": ("LOW",)}}, "STARFLAG has no bit 'LOW'"),
        ({"TEFF": {"above": 9000.0}}, r"no star of 4 passes \[data.cuts\] \(TEFF 4 left out\)"),
    ],
)
def test_faults_are_named(stars, cuts, said):
    with pytest.raises(ValueError, match=said):
        passing(stars, cuts)


def test_a_fraction_is_no_flag():
    stars = Spectra(np.ones((2, 2)), np.ones((2, 2)), labels={"FLAG": [1.0, 1.5]})
    with pytest.raises(ValueError, match=r"FLAG holds no flags with bits: 1\.5 is no integer"):
        passing(stars, {"FLAG": {"without": (0,)}})
