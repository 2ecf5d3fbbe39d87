"""How the labels of catalogues are called in the field: their name in plain text, LaTeX and HTML, and the usual unit.

The one table of it, which figures and pages read. It may be added to: ``FIELD_NAMES["VSINI"] = FieldName(...)``.
"""

import html
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldName:
    """How a label is written.

    Attributes
    ----------
    text
        In plain text, such as ``Teff``.
    latex
        In LaTeX, without dollar signs.
    html
        In HTML, which is not escaped.
    unit
        What it is given in where nothing else is said, as text; empty where that is not the custom, or it has none.

    """

    text: str
    latex: str
    html: str
    unit: str = ""


_TEFF = FieldName("Teff", r"T_\mathrm{eff}", "<i>T</i><sub>eff</sub>", "K")
_LOGG = FieldName("log g", r"\log g", "log <i>g</i>", "dex")
_VSINI = FieldName("v sin i", r"v \sin i", "<i>v</i> sin <i>i</i>", "km/s")
_MICRO = FieldName("vmicro", r"v_\mathrm{micro}", "<i>v</i><sub>micro</sub>", "km/s")
_MACRO = FieldName("vmacro", r"v_\mathrm{macro}", "<i>v</i><sub>macro</sub>", "km/s")
_A_K = FieldName("A(K)", r"A_K", "<i>A<sub>K</sub></i>", "mag")
_A_V = FieldName("A(V)", r"A_V", "<i>A<sub>V</sub></i>", "mag")

FIELD_NAMES: dict[str, FieldName] = {
    "TEFF": _TEFF, "T_EFF": _TEFF, "LOGG": _LOGG, "LOG_G": _LOGG, "VSINI": _VSINI, "VMICRO": _MICRO, "VMACRO": _MACRO,
    "AK": _A_K, "A_K": _A_K, "AK_TARG": _A_K, "AV": _A_V, "A_V": _A_V,
    "LOGAGE": FieldName("log age", r"\log\,\mathrm{age}", "log age", "dex"),
    "MASS": FieldName("M", "M", "<i>M</i>", "Msun"),
    "SNR": FieldName("S/N", r"\mathrm{S/N}", "S/N"),
}  # fmt: skip
"""By the name of the label in capitals. A ratio of abundances, such as ``MG_FE`` or ``FE_H``, need not stand here."""

_ALPHA = FieldName("\N{GREEK SMALL LETTER ALPHA}", r"\alpha", "&alpha;")
_RATIO = re.compile(r"(ALPHA|M|[A-Z][A-Z]?)_(FE|H|M)")
_SHORT_RATIOS = {"FEH": "FE_H", "MH": "M_H", "ALPHAFE": "ALPHA_FE"}


def field_name(label: str) -> FieldName:
    r"""How a label is written, from `FIELD_NAMES`, as a ratio of abundances, or otherwise its own name.

    Examples
    --------
    >>> from bayes_cannon.core.field_names import field_name
    >>> field_name("TEFF").html, field_name("TEFF").unit
    ('<i>T</i><sub>eff</sub>', 'K')
    >>> field_name("MG_FE").text, field_name("fe_h").text, field_name("BP-RP").text
    ('[Mg/Fe]', '[Fe/H]', 'BP-RP')

    """
    name = label.strip().upper()
    if name in FIELD_NAMES:
        return FIELD_NAMES[name]
    ratio = _RATIO.fullmatch(_SHORT_RATIOS.get(name, name))
    if ratio is None:
        return FieldName(label, rf"\mathrm{{{_escaped_latex(label)}}}", html.escape(label))
    above, below = (
        _ALPHA if part == "ALPHA" else FieldName(part.capitalize(), part.capitalize(), part.capitalize())
        for part in ratio.groups()
    )
    return FieldName(
        f"[{above.text}/{below.text}]", rf"[\mathrm{{{above.latex}/{below.latex}}}]", f"[{above.html}/{below.html}]",
        "dex",
    )  # fmt: skip


def unit_of_label(label: str, unit: str | None) -> str:
    """The unit that is known, or otherwise the usual one of the field; empty where there is none."""
    return unit or field_name(label).unit


def label_text(label: str, unit: str | None = None) -> str:
    """Name and unit in plain text, such as ``Teff (K)``."""
    shown = unit_of_label(label, unit)
    return f"{field_name(label).text} ({shown})" if shown else field_name(label).text


def term_text(term: str) -> str:
    """A term of a vectorizer, such as ``TEFF^2*FE_H``, as it is written: ``Teff² · [Fe/H]``."""
    parts = []
    for factor in term.split("*"):
        name, _, power = factor.partition("^")
        parts.append(field_name(name).text + power.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")))
    return " · ".join(parts)


def _escaped_latex(text: str) -> str:
    return re.sub(r"([\\{}$&#^_%~])", lambda found: rf"\{found[1]}" if found[1] not in "\\^~" else " ", text)
