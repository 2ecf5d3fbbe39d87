"""Names of labels as the field writes them."""

import pytest

from bayes_cannon.core import field_names
from bayes_cannon.core.field_names import FieldName, field_name, label_text, term_text, unit_of_label


@pytest.mark.parametrize(
    ("label", "text", "unit"),
    [
        ("TEFF", "Teff", "K"), ("logg", "log g", "dex"), ("FE_H", "[Fe/H]", "dex"), ("feh", "[Fe/H]", "dex"),
        ("ALPHA_M", "[α/M]", "dex"), ("C_FE", "[C/Fe]", "dex"), ("VSINI", "v sin i", "km/s"), ("COLOUR", "COLOUR", ""),
        ("<b>_H", "<b>_H", ""),
    ],
)  # fmt: skip
def test_names_and_usual_units(label, text, unit):
    assert field_name(label).text == text
    assert unit_of_label(label, None) == unit
    assert unit_of_label(label, "cm") == "cm"
    assert "<b>" not in field_name(label).html


def test_terms():
    assert term_text("TEFF^2*FE_H") == "Teff² · [Fe/H]"


def test_the_table_may_be_added_to(monkeypatch):
    monkeypatch.setitem(field_names.FIELD_NAMES, "AGE", FieldName("age", r"\tau", "&tau;", "Gyr"))
    assert label_text("age") == "age (Gyr)"
