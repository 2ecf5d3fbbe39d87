"""Records as groups of a file: every kind of field comes back as it was, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import h5py
import numpy as np
import pytest

from bayes_cannon.core.records import NOT_STORED, dims, encoded, equal, one_of, stored_fields
from bayes_cannon.io.record_file import from_groups, read_groups, to_groups, write_groups


@dataclass(frozen=True, eq=False)
class Circle:
    radius: float


@dataclass(frozen=True, eq=False)
class Polygon:
    corners: np.ndarray = field(metadata=dims("corner", "axis"))


SHAPES = {"Circle": Circle, "Polygon": Polygon}


@dataclass(frozen=True, eq=False)
class Everything:
    owner: str = field(metadata=NOT_STORED)
    array: np.ndarray = field(metadata=dims("star", "pixel", about="an array"))
    single: np.ndarray = field(metadata=dims("star"))
    mask: np.ndarray = field(metadata=dims("pixel"))
    number_or_array: float | np.ndarray | None = field(metadata=dims("pixel"), default=None)
    names: tuple[str, ...] = field(metadata=dims("label"), default=())
    shape: Circle | Polygon | str | None = field(metadata=one_of(lambda: SHAPES), default=None)
    circle: Circle | None = None
    masks: Mapping[str, np.ndarray] = field(metadata=dims("pixel"), default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    percent: float = field(metadata=encoded(lambda value: value / 100, lambda value: value * 100, float), default=50.0)
    flag: bool = True
    other_flag: bool | None = None
    count: int = 3
    number: float = 1.0
    limits: tuple[float, float] = (0.0, 1.0)
    text: str = ""


RNG = np.random.default_rng(0)
FIRST = Everything(
    "me", RNG.normal(size=(3, 2000)), RNG.normal(size=3).astype(np.float32), RNG.random(2000) > 0.5,
)  # fmt: skip
ARRAY = FIRST.array.copy()
ARRAY[0, :3] = np.nan, -np.inf, -0.0
SECOND = Everything(
    "me", ARRAY, RNG.integers(0, 9, 3), np.zeros(2000, bool), number_or_array=1e5, names=("TEFF", "[Fe/H]"),
    shape=Polygon(np.eye(2)), circle=Circle(2), masks={"[Fe/H]": FIRST.mask, "A*B %2F/ü": ~FIRST.mask},
    texts={"a/b": "", "kind": "text", "unit of time": "s"}, percent=12.5, flag=False, other_flag=False, count=-1,
    number=np.inf, limits=(-np.inf, 5.0), text="kg / m2 ü",
)  # fmt: skip
THIRD = replace(
    SECOND, number_or_array=RNG.random(2000), shape="auto", other_flag=True, masks={}, texts={}, names=("A",)
)


@pytest.mark.parametrize("record", [FIRST, SECOND, THIRD])
def test_round_trip_is_exact(record, tmp_path):
    write_groups(tmp_path / "f.nc", to_groups(record))
    back = from_groups(Everything, read_groups(tmp_path / "f.nc"), owner="me")
    for one in stored_fields(Everything):
        was, now = getattr(record, one.name), getattr(back, one.name)
        assert equal(was, now), one.name
        if isinstance(was, np.ndarray):
            assert was.dtype == now.dtype, one.name
            assert was.tobytes() == now.tobytes(), one.name
        elif not isinstance(was, Mapping | Circle | Polygon):
            assert type(was) is type(now), one.name
    assert back.owner == "me"


def test_each_field_was_set_to_something_else():
    """So that no default passes for what was read."""
    for one in stored_fields(Everything):
        values = [getattr(record, one.name) for record in (FIRST, SECOND, THIRD)]
        assert not (equal(values[0], values[1]) and equal(values[0], values[2])), one.name


def test_file_describes_itself(tmp_path):
    write_groups(tmp_path / "f.nc", to_groups(SECOND))
    with h5py.File(tmp_path / "f.nc") as file:
        assert [axis[0].name.rsplit("/")[-1] for axis in file["array"].dims] == ["star", "pixel"]
        assert file["array"].attrs["long_name"] == "an array"
        assert file["array"].compression == "gzip"
        assert file["shape"].attrs["kind"] == "Polygon"


def test_what_is_missing_is_named(tmp_path):
    groups = to_groups(SECOND)
    del groups["/circle"].attrs["radius"]
    with pytest.raises(KeyError, match="circle/radius"):
        from_groups(Everything, groups, owner="me")


def test_unknown_class_is_named():
    groups = to_groups(SECOND)
    groups["/shape"].attrs["kind"] = "os.system"
    with pytest.raises(ValueError, match=r"shape is of the class 'os.system', not one of Circle, Polygon"):
        from_groups(Everything, groups, owner="me")


@dataclass(frozen=True)
class Undeclared:
    array: object


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(3), "array cannot be stored: it is an array, and its field declares no dimensions"),
        ({1, 2}, "it is set"),
    ],
)
def test_what_cannot_be_stored_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        to_groups(Undeclared(value))
