"""Records: dimensions that are checked where they meet, and equality that knows arrays and NaN."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from bayes_cannon.core.records import NOT_STORED, check_dims, dims, equal


@dataclass(frozen=True, eq=False)
class Inner:
    values: np.ndarray = field(metadata=dims("pixel"))
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Outer:
    matrix: np.ndarray = field(metadata=dims("pixel", "term"))
    inner: Inner
    masks: Mapping[str, np.ndarray] = field(metadata=dims("pixel"), default_factory=dict)
    strength: float | np.ndarray | None = field(metadata=dims("pixel"), default=None)
    about: object = field(metadata=NOT_STORED, default=None)


OUTER = Outer(np.ones((4, 3)), Inner(np.array([0.0, np.nan, 1.0, 2.0])), {"a": np.zeros(4, bool)}, 2.0)


def test_arrays_that_agree_pass():
    check_dims(OUTER)
    check_dims(replace(OUTER, strength=None))
    check_dims(replace(OUTER, strength=np.ones(4)), {"term": (3, "the terms")})


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({"matrix": np.ones(4)}, {}, r"matrix must have shape \(pixel, term\), got shape \(4,\)"),
        (
            {"inner": Inner(np.ones(5))},
            {},
            r"inner.values has shape \(5,\): its pixel axis must have length 4",
        ),
        ({"masks": {"a": np.zeros(3, bool)}}, {}, r"masks\['a'\] has shape \(3,\)"),
        ({"strength": np.ones(3)}, {}, "strength has shape"),
        (
            {},
            {"term": (2, "the terms")},
            r"matrix has shape .* term axis must have length 2, as the terms has",
        ),
    ],
)
def test_arrays_that_contradict_each_other_are_named(changes, sizes, message):
    with pytest.raises(ValueError, match=message):
        check_dims(replace(OUTER, **changes), sizes)


def test_equality():
    same = Outer(np.ones((4, 3)), Inner(np.array([0.0, np.nan, 1.0, 2.0])), {"a": np.zeros(4, bool)}, 2.0, about="else")
    assert equal(OUTER, same)
    different = [
        replace(OUTER, matrix=np.zeros((4, 3))),
        replace(OUTER, matrix=np.ones((4, 2))),
        replace(OUTER, inner=Inner(np.array([0.0, 0.0, 1.0, 2.0]))),
        replace(OUTER, inner=replace(OUTER.inner, weight=np.nan)),
        replace(OUTER, masks={}),
        replace(OUTER, masks={"b": np.zeros(4, bool)}),
        replace(OUTER, strength=None),
        replace(OUTER, strength=np.full(4, 2.0)),
    ]
    assert not any(equal(OUTER, other) for other in different)
    assert equal(np.nan, np.nan)
    assert not equal(OUTER, OUTER.inner)
