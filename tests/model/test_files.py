"""A model file holds everything that a model is: every setting and result, bit for bit, for any class and family."""

import pickle
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import bayes_cannon as tc
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.records import equal, stored_fields
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.io.record_file import write_groups
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.model.files import StoredModel, read_model, write_model
from bayes_cannon.model.result import Certificates, TrainingResult
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.base import LEARNED
from bayes_cannon.scatter.common_covariance import CommonCovariance
from bayes_cannon.scatter.independent import IndependentScatter
from bayes_cannon.scatter.low_rank import LowRankScatter

N_STARS, N_PIXELS, N_TERMS, NAMES = 9, 700, 6, ("TEFF", "[Fe/H]")
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
RNG = np.random.default_rng(1)


def _theta() -> tuple[np.ndarray, np.ndarray]:
    theta, s2 = RNG.normal(size=(N_PIXELS, N_TERMS)), RNG.random(N_PIXELS)
    theta[3], s2[3] = np.nan, np.inf
    theta[4, 2] = -0.0
    return theta, s2


def _stars() -> TrainingSet:
    flux = RNG.normal(size=(N_STARS, N_PIXELS))
    flux[2, 5] = np.nan
    return TrainingSet(
        VECTORIZER, RNG.normal(size=(N_STARS, 2)), LabelScaling(np.array([5000.1, -0.2]), np.array([1e3, 0.7]), 2.0),
        # A unit that time decoding would swallow, and one that is empty.
        {"TEFF": "s", "[Fe/H]": ""}, flux, RNG.random(flux.shape), np.linspace(15000, 17000, N_PIXELS),
        "Jy", "Angstrom", RNG.normal(size=(N_STARS, N_PIXELS, N_PIXELS)),
    )  # fmt: skip


def _posterior() -> ThetaPosterior:
    posterior = ThetaPosterior.empty(N_PIXELS, N_TERMS, RNG.integers(0, 3, N_PIXELS))
    half = RNG.normal(size=(N_PIXELS, N_TERMS, N_TERMS))
    posterior.mean[:], posterior.covariance[:] = RNG.normal(size=(N_PIXELS, N_TERMS)), half + half.swapaxes(1, 2)
    posterior.s[:, 2] = RNG.random(N_PIXELS)
    posterior.covariance[3] = np.nan
    return posterior


def _calibration() -> Calibration:
    return Calibration(
        *(RNG.normal(size=2) for _ in range(2)), np.diag([1.0, 2.0]), RNG.normal(size=2), tails=np.inf, tail_power=0.3,
        snr_median=50.0, leverage_median=0.9, snr_range=(10.0, 200.0), n_stars=80, n_left_out=3, r_hat=1.01,
        divergences=2, spread={"log_scale": RNG.random(2), "tails": np.float64(0.3), "floor": RNG.random(2)},
    )  # fmt: skip


CENSORS = {"[Fe/H]": RNG.random(N_PIXELS) > 0.5, "TEFF": np.zeros(N_PIXELS, dtype=bool)}
BOUNDS = {"TEFF": (None, 0.0), "TEFF^2": (-1e-300, None), "[Fe/H]^2": (-np.inf, np.inf)}
SETTINGS = Settings(RNG.random(N_PIXELS), CENSORS, BOUNDS, tc.scatter.LowRank(3, True, 0.5), integrate_theta=False)


def _result(stars: TrainingSet) -> TrainingResult:
    """Everything is other than its default."""
    theta, s2 = _theta()
    certificates = Certificates(*RNG.random((3, N_PIXELS)), *RNG.integers(0, 9, (3, N_PIXELS)), RNG.random(N_PIXELS))
    return TrainingResult(
        stars, theta, s2, LowRankScatter(RNG.normal(size=(N_PIXELS, 3)), 5.5), "LowRank(...)", certificates,
        SETTINGS.snapshot(), "powell", True, _posterior(), _calibration(), GoodnessOfFit(*RNG.random((2, 6))),
    )  # fmt: skip


@pytest.fixture(scope="module")
def everything() -> StoredModel:
    """A model that uses everything that a model can hold."""
    stars = _stars()
    return StoredModel(stars, SETTINGS, _result(stars), {"recipe": "sun-like stars", "a/b": "", "kind": "x"})


@pytest.fixture(scope="module")
def nothing() -> StoredModel:
    """A model without anything that may be left out."""
    return StoredModel(replace(_stars(), label_units={}, dispersion=None).without_spectra(), Settings())


def assert_same(one: object, other: object, where: str = "") -> None:
    """Equal, of the same type, and arrays to the last bit."""
    alike = dict, float  # NumPy's and Python's numbers
    assert type(one) is type(other) or any(isinstance(one, kind) and isinstance(other, kind) for kind in alike), where
    if is_dataclass(one):
        for each in stored_fields(one):
            assert_same(getattr(one, each.name), getattr(other, each.name), f"{where}.{each.name}")
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}[{name}]")
    else:
        assert equal(one, other), where


def _packed(model: StoredModel) -> StoredModel:
    """With of the posterior what a file keeps of it."""
    if model.result is None or model.result.posterior is None:
        return model
    kept = ThetaPosterior.from_packed(model.result.posterior.packed())
    return replace(model, result=replace(model.result, posterior=kept))


@pytest.mark.parametrize("which", ["everything", "nothing"])
def test_round_trip_is_exact(which, request, tmp_path):
    written = request.getfixturevalue(which)
    if which == "nothing":
        with pytest.warns(tc.model.TrainingWarning, match="can be used for nothing"):
            write_model(tmp_path / "my.model", written)
    else:
        write_model(tmp_path / "my.model", written)
    read = read_model(tmp_path / "my.model")
    for part in ("stars", "settings", "result"):
        assert_same(getattr(_packed(written), part), getattr(read, part), part)
    assert {**written.provenance}.items() <= {**read.provenance}.items()
    assert [path.name for path in tmp_path.iterdir()] == ["my.model"]
    if read.result is not None:
        assert read.result.stars is read.stars


def _differs_from_its_defaults(record: object, where: str) -> None:
    for one in fields(record):
        value = getattr(record, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        assert value is not None, f"{where}.{one.name} is not set"
        if default is not MISSING:
            assert not equal(value, default), f"{where}.{one.name} is its default"
        if is_dataclass(value) and not isinstance(value, TrainingSet | ThetaPosterior | Settings):
            _differs_from_its_defaults(value, f"{where}.{one.name}")


def test_every_setting_was_set_to_something_else(everything):
    """So that a setting which is added and not stored, or read as its default, is seen by the round trip."""
    for name in ("stars", "settings", "result"):
        _differs_from_its_defaults(getattr(everything, name), name)


@pytest.mark.parametrize("regularization", [None, 0.0, 1000.0])
@pytest.mark.parametrize("scatter", [None, "auto", tc.scatter.Full(0.25, True, 0.0), tc.scatter.Full()])
def test_other_forms_of_settings(everything, regularization, scatter, tmp_path):
    settings = replace(SETTINGS, regularization=regularization, scatter=scatter, integrate_theta=True, censors={})
    write_model(tmp_path / "m", replace(everything, settings=settings))
    assert_same(read_model(tmp_path / "m").settings, settings)


def test_every_kind_of_learned_scatter(everything, tmp_path):
    given = np.eye(N_PIXELS) + 0.1
    learned = [
        IndependentScatter(), LowRankScatter(RNG.normal(size=(N_PIXELS, 2))),
        CommonCovariance(RNG.normal(size=(N_PIXELS, 4)), RNG.random(N_PIXELS), 7.0, 0.8),
    ]  # fmt: skip
    assert {type(one) for one in learned} <= set(LEARNED.values())
    settings = replace(SETTINGS, scatter=tc.scatter.Given(given, True))
    for number, scatter in enumerate(learned):
        result = replace(everything.result, scatter=scatter)
        write_model(tmp_path / str(number), replace(everything, settings=settings, result=result))
        read = read_model(tmp_path / str(number))
        assert_same(read.result.scatter, scatter)
        assert_array_equal(read.settings.scatter.covariance, given)


def test_float32_spectra_stay_float32(everything, tmp_path):
    stars = replace(everything.stars, flux=everything.stars.flux.astype(np.float32))
    write_model(tmp_path / "m", replace(everything, stars=stars))
    assert_same(read_model(tmp_path / "m").stars.flux, stars.flux)


def test_provenance_says_where_the_file_comes_from(everything, tmp_path):
    write_model(tmp_path / "m", everything)
    provenance = read_model(tmp_path / "m").provenance
    assert set(provenance) == {"recipe", "a/b", "kind", "bayes_cannon", "created", "python", "numpy", "jax"}
    assert provenance["numpy"] == np.__version__
    assert provenance["created"].endswith("+00:00")


def test_file_describes_itself(everything, tmp_path):
    write_model(tmp_path / "m", everything)
    with h5py.File(tmp_path / "m") as file:
        assert file.attrs["format"] == "bayes_cannon model"
        assert [axis[0].name.rsplit("/")[-1] for axis in file["result/theta"].dims] == ["pixel", "term"]
        texts = [text.decode() for text in file["stars/vectorizer/texts"][:]]
        assert texts == ["1", "TEFF", "[Fe/H]", "TEFF^2", "TEFF*[Fe/H]", "[Fe/H]^2"]
        assert file["result/theta"].compression == "gzip"


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("result", {"theta": np.ones((N_PIXELS, 5))}, r"result.theta has shape .* term axis must have length 6"),
        ("result", {"s2": np.ones(N_PIXELS + 1)}, "result.s2 has shape"),
        ("stars", {"labels": np.ones((N_STARS + 1, 2))}, "stars.flux has shape .* star axis"),
        ("stars", {"dispersion": np.ones(3)}, "pixel axis"),
        ("settings", {"censors": {"TEFF": np.zeros(2, dtype=bool)}}, r"settings.censors\['TEFF'\]"),
        ("settings", {"regularization": np.zeros(2)}, "settings.regularization"),
        ("result", {"scatter": LowRankScatter(np.ones((3, 2)))}, "result.scatter.factors"),
    ],
)
def test_contradictions_are_refused(everything, part, changes, said, tmp_path):
    wrong = replace(everything, **{part: replace(getattr(everything, part), **changes)})
    with pytest.raises(ValueError, match=said):
        write_model(tmp_path / "m", wrong)
    assert not (tmp_path / "m").exists()


def test_many_long_terms_and_bounds_fit(tmp_path):
    names = tuple(f"ABUNDANCE_OF_ELEMENT_{k}" for k in range(17))
    vectorizer = tc.vectorizer.PolynomialVectorizer(names, 2)
    stars = TrainingSet(vectorizer, np.zeros((3, 17)), LabelScaling(np.zeros(17), np.ones(17)))
    settings = Settings(theta_bounds=dict.fromkeys(vectorizer.readable_terms[1:], (0.0, None)))
    result = TrainingResult(stars, np.ones((4, 171)), np.ones(4), IndependentScatter())
    write_model(tmp_path / "m", StoredModel(stars, settings, result))
    assert_same(read_model(tmp_path / "m").settings, settings)
    assert read_model(tmp_path / "m").stars.vectorizer == vectorizer


def test_nothing_is_pickled_or_unpickled(everything, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    write_model(tmp_path / "m", everything)
    assert read_model(tmp_path / "m").result.op_method == "powell"


def test_missing_variable_is_named(everything, tmp_path):
    write_model(tmp_path / "m", everything)
    with h5py.File(tmp_path / "m", "r+") as file:
        del file["stars/scaling/scale"]
    with pytest.raises(ValueError, match="'stars/scaling/scale' is missing"):
        read_model(tmp_path / "m")


def test_file_is_closed_after_reading(everything, tmp_path):
    write_model(tmp_path / "m", everything)
    read = read_model(tmp_path / "m")
    with h5py.File(tmp_path / "m", "r+") as file:
        file["result/theta"][...] = 0
    assert_array_equal(read.result.theta, everything.result.theta)


def test_existing_file_is_refused_and_kept(everything, tmp_path):
    path = tmp_path / "m"
    write_model(path, everything)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_model(path, everything)
    assert path.read_bytes() == before


def test_failed_write_leaves_the_old_file_and_nothing_else(everything, tmp_path, monkeypatch):
    path = tmp_path / "m"
    write_model(path, everything)
    before = path.read_bytes()

    def fails(path, groups):
        write_groups(path, groups)
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("bayes_cannon.io.model_file.write_groups", fails)
    with pytest.raises(OSError, match="disk full"):
        write_model(path, everything, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Instrument(tc.CannonModel):
    """A user's class, whose constructor asks for other things."""

    def __init__(self, name, *, stars):
        super().__init__(*stars, VECTORIZER)
        self.name = name


def test_a_users_subclass_can_write_and_read(tmp_path):
    labels = RNG.normal(size=(30, 2))
    model = Instrument("mine", stars=(labels, None, None))
    model.use_theta(np.ones((5, 6)), np.zeros(5))
    model.write(tmp_path / "m")
    back = Instrument.read(tmp_path / "m")
    assert type(back) is Instrument
    assert type(tc.CannonModel.read(tmp_path / "m")) is tc.CannonModel
    assert back == model
    assert model != tc.CannonModel.read(tmp_path / "m")
    assert_array_equal(back([0.1, 0.2]), model([0.1, 0.2]))


def test_integrate_theta_is_kept(everything, tmp_path):
    """Errors of labels with theta integrated out are others than those without."""
    write_model(tmp_path / "m", everything)
    assert tc.CannonModel.read(tmp_path / "m").integrate_theta is False
