"""Checks of single values of a recipe. Each takes a value and its place, such as ``model.order``, and returns it."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, isnan
from typing import Any

from bayes_cannon.io.flag_bits import bit_mask

Check = Callable[[Any, str], Any]
Cut = Mapping[str, Any]
"""Conditions that all hold (`bayes_cannon.io.cuts`): ``above``, ``below``, ``without``, ``is``, ``finite``."""


def text(value: Any, where: str) -> str:
    """A text."""
    return _expect(value, where, "a text", isinstance(value, str))


def file_name(value: Any, where: str) -> str:
    """A text that can begin the name of a file."""
    allowed = isinstance(value, str) and value.strip() and not set(value) & set("/\\:\0") and not value.startswith(".")
    return _expect(value, where, "a text that can begin a file's name, without slashes", bool(allowed))


def boolean(value: Any, where: str) -> bool:
    """True or false."""
    return _expect(value, where, "true or false", isinstance(value, bool))


def natural(value: Any, where: str) -> int:
    """An integer that is not negative."""
    return _expect(value, where, "an integer of 0 or more", _is_integer(value) and value >= 0)


def fold(value: Any, where: str) -> int | str:
    """The number of a fold, or all of them."""
    return "all" if value == "all" else natural(value, where)


def count(value: Any, where: str) -> int:
    """A positive integer."""
    return _expect(value, where, "an integer of 1 or more", _is_integer(value) and value >= 1)


def count_or_auto(value: Any, where: str) -> int | str:
    """A positive integer, or ``"auto"``."""
    right = value == "auto" or (_is_integer(value) and value >= 1)
    found: int | str = _expect(value, where, 'an integer of 1 or more, or "auto"', right)
    return found


def several(value: Any, where: str) -> int:
    """An integer of at least two."""
    return _expect(value, where, "an integer of 2 or more", _is_integer(value) and value >= 2)


def positive(value: Any, where: str) -> float:
    """A positive finite number."""
    return float(_expect(value, where, "a positive number", _is_number(value) and isfinite(value) and value > 0))


def not_negative(value: Any, where: str) -> float:
    """A finite number that is not negative."""
    return float(_expect(value, where, "a number of 0 or more", _is_number(value) and isfinite(value) and value >= 0))


def one_or_more_not_negative(value: Any, where: str) -> float | tuple[float, ...]:
    """A finite number that is not negative, or several."""
    if not isinstance(value, list):
        return not_negative(value, where)
    _expect(value, where, "a number of 0 or more, or a list of at least one", bool(value))
    return tuple(not_negative(one, f"{where}[{index}]") for index, one in enumerate(value))


def numbers(value: Any, where: str) -> tuple[float, ...]:
    """Finite numbers."""
    right = isinstance(value, list) and all(_is_number(number) and isfinite(number) for number in value)
    return tuple(float(number) for number in _expect(value, where, "a list of numbers", bool(right)))


def names(value: Any, where: str) -> tuple[str, ...]:
    """Texts, at least one, none twice."""
    right = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    return tuple(_expect(value, where, "a list of different texts", bool(right) and len(set(value)) == len(value)))


def text_or_names(value: Any, where: str) -> str | tuple[str, ...]:
    """A text, or several."""
    return value if isinstance(value, str) else names(value, where)


def any_names(value: Any, where: str) -> tuple[str, ...]:
    """Texts, perhaps none."""
    return () if value == [] else names(value, where)


def grid(value: Any, where: str) -> str | tuple:
    """The name of a grid, or [first, last, step] or [first, last, step, "log"]."""
    wanted = 'the name of a grid, [first, last, step] or [first, last, step, "log"]'
    if isinstance(value, str):
        return value
    is_rule = isinstance(value, list) and len(value) in (3, 4) and all(map(_is_number, value[:3]))
    return tuple(_expect(value, where, wanted, is_rule and value[3:] in ([], ["log"])))


def texts(value: Any, where: str) -> dict[str, str]:
    """Texts by name."""
    _expect(value, where, "a table of texts", isinstance(value, Mapping))
    return {name: text(entry, f"{where}.{name}") for name, entry in value.items()}


def pair(value: Any, where: str) -> tuple[float, float]:
    """Two numbers in order; they may be infinite."""
    right = isinstance(value, list) and len(value) == 2 and all(_is_number(end) and not isnan(end) for end in value)
    low, high = _expect(value, where, "a pair [low, high] of numbers", right and value[0] <= value[1])
    return float(low), float(high)


def pairs_by_name(value: Any, where: str) -> dict[str, tuple[float, float]]:
    """Pairs of numbers by name."""
    _expect(value, where, "a table of pairs [low, high]", isinstance(value, Mapping))
    return {name: pair(entry, f"{where}.{name}") for name, entry in value.items()}


def regions(value: Any, where: str) -> tuple[tuple[float, float], ...]:
    """Pairs of numbers, at least one."""
    _expect(value, where, "a list of pairs [[start, end], ...]", isinstance(value, list) and len(value) > 0)
    return tuple(pair(entry, f"{where}[{index}]") for index, entry in enumerate(value))


def partitions(value: Any, where: str) -> str | tuple[tuple[int, int], ...]:
    """``"auto"``, or pairs of the number of regions and the order of the polynomials, at least one."""
    if value == "auto":
        return "auto"
    what = '"auto", or a list of pairs [[regions, order], ...] of positive whole numbers'
    pairs = value if isinstance(value, list) else []
    right = bool(pairs) and all(
        isinstance(entry, list) and len(entry) == 2 and all(_is_integer(one) and one > 0 for one in entry)
        for entry in pairs
    )
    _expect(value, where, what, right)
    return tuple((int(regions), int(order)) for regions, order in pairs)


def indices_or_path(value: Any, where: str) -> tuple[int, ...] | str:
    """Indices of pixels, or a path."""
    if isinstance(value, str):
        return value
    right = isinstance(value, list) and value and all(_is_integer(index) and index >= 0 for index in value)
    return tuple(_expect(value, where, "a list of indices of pixels, or the path of a file", bool(right)))


def cuts(value: Any, where: str) -> dict[str, Cut]:
    """Tables of conditions by the name of a column."""
    _expect(value, where, "a table of cuts", isinstance(value, Mapping))
    checked: dict[str, Cut] = {}
    for name, cut in value.items():
        place = f"{where}.{name}"
        right = isinstance(cut, Mapping) and cut and set(cut) <= {*_CONDITIONS}
        _expect(cut, place, f"a table with {', '.join(_CONDITIONS)}, such as {{above = 4000.0}}", bool(right))
        checked[name] = {key: _CONDITIONS[key](given, f"{place}.{key}") for key, given in cut.items()}
        try:
            bit_mask(name, checked[name].get("without", ()))
        except ValueError as error:
            raise ValueError(f"{place}.without: {error}") from None
    return checked


def _limit(value: Any, where: str) -> float:
    return float(_expect(value, where, "a number", _is_number(value) and not isnan(value)))


def _bits(value: Any, where: str) -> tuple[str | int, ...]:
    right = isinstance(value, list) and value and all(isinstance(bit, str) or _is_integer(bit) for bit in value)
    return tuple(_expect(value, where, "a list of bits by name or number, such as ['LOW_SNR', 9]", bool(right)))


def _values(value: Any, where: str) -> tuple[str | float | bool, ...]:
    given = value if isinstance(value, list) else [value]
    right = given and all(isinstance(one, str | int | float) and one == one for one in given)
    _expect(value, where, "a text or a number, or a list of some", bool(right))
    return tuple(given)


def _true(value: Any, where: str) -> bool:
    return _expect(value, where, "true, or left out", value is True)


_CONDITIONS: Mapping[str, Check] = {
    "above": _limit, "below": _limit, "without": _bits, "is": _values, "finite": _true,
}  # fmt: skip


def one_of(choices: Sequence[str]) -> Check:
    """Check that a value is one of some texts."""

    def check(value: Any, where: str) -> str:
        return _expect(value, where, f"one of {', '.join(map(repr, choices))}", value in choices)

    return check


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect(value: Any, where: str, wanted: str, right: bool) -> Any:
    if not right:
        raise ValueError(f"{where} must be {wanted}; got {value!r}")
    return value
