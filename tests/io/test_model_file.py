"""The model file: an exact round trip, and a clear error for everything that is no model file."""

import pickle
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bayes_cannon.io import model_file
from bayes_cannon.io.model_file import FORMAT_VERSION, ModelState, read_model, training_set_hash, write_model

N_STARS, N_PIXELS = 9, 700
TERMS = [((0, 1),), ((1, 1),), ((0, 2),), ((0, 1), (1, 1)), ((1, 2),)]


@pytest.fixture
def state() -> ModelState:
    """A trained, restricted model that uses everything that a model can hold."""
    rng = np.random.default_rng(1)
    theta, s2 = rng.normal(size=(N_PIXELS, 6)), rng.random(N_PIXELS)
    theta[3], s2[3] = np.nan, np.inf
    theta[4, 2] = -0.0
    flux = rng.normal(size=(N_STARS, N_PIXELS))
    flux[2, 5] = np.nan
    return ModelState(
        model_class="RestrictedCannonModel",
        label_names=("TEFF", "FE_H"),
        terms=TERMS,
        fiducial=np.array([5000.1, -0.2]),
        scale=np.array([1000.0, 0.7]),
        training_set_labels=rng.normal(size=(N_STARS, 2)),
        scale_factor=2.0,
        # A unit that time decoding would swallow.
        label_units={"TEFF": "s", "FE_H": "dex"},
        dispersion=np.linspace(15000, 17000, N_PIXELS),
        regularization=rng.random(N_PIXELS),
        censors={"FE_H": rng.random(N_PIXELS) > 0.5, "TEFF": np.zeros(N_PIXELS, dtype=bool)},
        training_set_flux=flux,
        training_set_ivar=rng.random((N_STARS, N_PIXELS)),
        theta=theta,
        s2=s2,
        posterior={
            "theta_mean": rng.normal(size=(N_PIXELS, 6)),
            "theta_covariance": np.where(np.arange(N_PIXELS)[:, None] == 3, np.nan, rng.normal(size=(N_PIXELS, 21))),
            "s2_mean": rng.random(N_PIXELS),
            "status": rng.integers(0, 3, N_PIXELS),
        },
        training={
            "objective": rng.random(N_PIXELS),
            "iterations": rng.integers(0, 9, N_PIXELS),
            "status": rng.integers(0, 3, N_PIXELS),
            "messages": np.array(["", "ends"] * (N_PIXELS // 2), dtype=object),
        },
        op_method="powell",
        theta_bounds={"TEFF": (None, 0.0), "FE_H*TEFF": (-1e-300, None), "FE_H^2": (-np.inf, np.inf)},
        provenance={"recipe": "sun-like stars"},
    )


@pytest.fixture
def untrained() -> ModelState:
    """A model with nothing that may be left out."""
    return ModelState(
        model_class="CannonModel",
        label_names=["A"],
        terms=[((0, 1),)],
        fiducial=np.zeros(1),
        scale=np.ones(1),
        training_set_labels=np.arange(4.0)[:, None],
    )


def assert_same(one: object, other: object) -> None:
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype == object:
            assert one.tolist() == other.tolist()
        else:
            assert one.tobytes() == other.tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    else:
        assert one == other


@pytest.mark.parametrize("which", ["state", "untrained"])
def test_round_trip_is_exact(which, request, tmp_path):
    written = request.getfixturevalue(which)
    write_model(tmp_path / "my.model", written)
    read = read_model(tmp_path / "my.model")
    for field in fields(ModelState):
        if field.name != "provenance":
            assert_same(getattr(written, field.name), getattr(read, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["my.model"]


@pytest.mark.parametrize("regularization", [None, 0.0, 1000.0])
def test_regularization_of_one_number(untrained, regularization, tmp_path):
    write_model(tmp_path / "m", replace(untrained, regularization=regularization))
    assert read_model(tmp_path / "m").regularization == regularization


def test_float32_spectra_stay_float32(state, tmp_path):
    narrow = replace(state, training_set_flux=state.training_set_flux.astype(np.float32))
    write_model(tmp_path / "m", narrow)
    assert_same(narrow.training_set_flux, read_model(tmp_path / "m").training_set_flux)


def test_provenance_says_where_the_file_comes_from(state, tmp_path):
    write_model(tmp_path / "m", state)
    provenance = read_model(tmp_path / "m").provenance
    assert set(provenance) == {"recipe", "bayes_cannon", "created", "python", "numpy", "jax", "training_set_sha256"}
    assert provenance["recipe"] == "sun-like stars"
    assert provenance["numpy"] == np.__version__
    assert provenance["created"].endswith("+00:00")
    wanted = training_set_hash(state.training_set_labels, state.training_set_flux, state.training_set_ivar)
    assert provenance["training_set_sha256"] == wanted


def test_hash_of_the_training_set_outlives_its_spectra(state, tmp_path):
    write_model(tmp_path / "with", state)
    first = read_model(tmp_path / "with")
    write_model(tmp_path / "without", replace(first, training_set_flux=None, training_set_ivar=None))
    without = read_model(tmp_path / "without").provenance
    assert without["training_set_sha256"] == first.provenance["training_set_sha256"]


def test_hash_depends_on_every_value_and_on_the_shape(state):
    labels, flux, ivar = state.training_set_labels, state.training_set_flux, state.training_set_ivar
    changed = ivar.copy()
    changed[-1, -1] += 1e-9
    hashes = {
        training_set_hash(labels, flux, ivar),
        training_set_hash(labels, flux, changed),
        training_set_hash(labels, ivar, flux),
        training_set_hash(labels.T, flux, ivar),
    }
    assert len(hashes) == 4
    assert training_set_hash(labels, flux, np.asfortranarray(ivar)) in hashes


def test_file_describes_itself(state, tmp_path):
    write_model(tmp_path / "m", state)
    with h5py.File(tmp_path / "m") as file:
        assert file.attrs["format"] == "bayes_cannon model"
        assert file.attrs["format_version"].item() == FORMAT_VERSION
        assert [d[0].name for d in file["theta"].dims] == ["/pixel", "/term"]
        assert [text.decode() for text in file["term"][:]] == [
            "1", "TEFF", "FE_H", "TEFF^2", "FE_H*TEFF", "FE_H^2",
        ]  # fmt: skip
        assert "converged" in file["training_status"].attrs["flag_meanings"]
        assert file["theta"].compression == "gzip"


def test_existing_file_is_refused_and_kept(state, untrained, tmp_path):
    path = tmp_path / "m"
    write_model(path, state)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_model(path, untrained)
    assert path.read_bytes() == before
    write_model(path, untrained, overwrite=True)
    assert read_model(path).label_names == ("A",)


def test_failed_write_leaves_the_old_file_and_nothing_else(state, tmp_path, monkeypatch):
    path = tmp_path / "m"
    write_model(path, state)
    before = path.read_bytes()

    def fails(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(model_file.xr.Dataset, "to_netcdf", fails)
    with pytest.raises(OSError, match="disk full"):
        write_model(path, state, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_and_folder_in_the_way(state, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        write_model(tmp_path / "no" / "m", state)
    with pytest.raises(FileExistsError, match="a folder of that name exists"):
        write_model(tmp_path, state, overwrite=True)


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _foreign(kind: str, path: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "pickle of protocol 0":
        path.write_bytes(pickle.dumps(Bomb(), protocol=0))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, theta=np.ones(3))
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("theta = 1")
    elif kind == "folder":
        path.mkdir()
    elif kind == "HDF5 without format":
        with h5py.File(path, "w") as file:
            file["theta"] = np.ones(3)
    elif kind == "HDF5 of another format":
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "something else"
    elif kind == "format without version":
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "bayes_cannon model"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pickle", "Python pickle"),
        ("pickle of protocol 0", "no HDF5 file"),
        ("npz", "zip archive"),
        ("empty", "is empty"),
        ("text", "no HDF5 file"),
        ("folder", "is a folder"),
        ("HDF5 without format", "its attribute 'format' is 'absent'"),
        ("HDF5 of another format", "its attribute 'format' is 'something else'"),
        ("format without version", "format_version"),
    ],
)
def test_foreign_file_is_refused_by_name(kind, said, tmp_path):
    path = tmp_path / "foreign.model"
    _foreign(kind, path)
    with pytest.raises(ValueError, match=said) as caught:
        read_model(path)
    assert "foreign.model" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*my\.model"):
        read_model(tmp_path / "my.model")


@pytest.mark.parametrize("fraction", [0.0003, 0.1, 0.5, 0.999])
def test_truncated_file(state, fraction, tmp_path):
    write_model(tmp_path / "m", state)
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ValueError, match=r"truncated or damaged|no HDF5 file") as caught:
        read_model(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)


def test_file_damaged_inside(state, tmp_path):
    write_model(tmp_path / "m", state)
    with h5py.File(tmp_path / "m") as file:
        offset = file["theta"].id.get_chunk_info(0).byte_offset
    with (tmp_path / "m").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    with pytest.raises(ValueError, match="is damaged"):
        read_model(tmp_path / "m")


def test_newer_format_version_says_who_wrote_it(state, tmp_path):
    write_model(tmp_path / "m", state)
    with h5py.File(tmp_path / "m", "r+") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
        file.attrs["provenance_bayes_cannon"] = "99.0"
    with pytest.raises(ValueError, match=r"written by bayes_cannon 99\.0.*Upgrade bayes_cannon"):
        read_model(tmp_path / "m")


def test_file_without_a_posterior_is_read(state, tmp_path):
    write_model(tmp_path / "m", replace(state, posterior=None))
    assert read_model(tmp_path / "m").posterior is None


def test_missing_variable_is_named(state, tmp_path):
    write_model(tmp_path / "m", state)
    with h5py.File(tmp_path / "m", "r+") as file:
        del file["scale"]
    with pytest.raises(ValueError, match="scale"):
        read_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"theta": np.ones((N_PIXELS, 5))}, "theta has shape .* term axis must have length 6"),
        ({"s2": np.ones(N_PIXELS + 1)}, "s2 has shape"),
        ({"s2": None}, "theta and s2 belong together"),
        ({"training_set_ivar": None}, "training_set_flux and training_set_ivar belong together"),
        ({"scale": np.ones(3)}, "scale has shape .* label axis must have length 2"),
        ({"training_set_labels": np.ones((N_STARS + 1, 2))}, "star axis"),
        ({"dispersion": np.ones(3)}, "pixel axis"),
        ({"censors": {"FE_H": np.zeros(2, dtype=bool)}}, "FE_H"),
        ({"censors": {"MG_H": np.zeros(N_PIXELS, dtype=bool)}}, "MG_H"),
        ({"label_units": {"teff": "K"}}, "teff"),
        ({"theta_bounds": {"MG_H": (0, 1)}}, "MG_H"),
        ({"training": {"status": np.zeros(2)}}, "status"),
        ({"regularization": np.zeros(2)}, "regularization"),
        ({"posterior": {"theta_covariance": np.ones((N_PIXELS, 20))}}, "pair axis must have length 21"),
        ({"model_class": "os.system"}, "model_class must be one of"),
    ],
)
def test_contradictions_are_refused(state, changes, said):
    with pytest.raises(ValueError, match=said):
        replace(state, **changes)


def test_many_long_terms_fit(tmp_path):
    names = tuple(f"ABUNDANCE_OF_ELEMENT_{k}" for k in range(17))
    pairs = [((k, 1), (m, 1)) for k in range(17) for m in range(k + 1, 17)]
    vectorizer_terms = [*(((k, 1),) for k in range(17)), *pairs]
    state = ModelState(
        model_class="RestrictedCannonModel",
        label_names=names,
        terms=vectorizer_terms,
        fiducial=np.zeros(17),
        scale=np.ones(17),
        training_set_labels=np.zeros((3, 17)),
    )
    bounds = dict.fromkeys(state.vectorizer.readable_terms[1:], (0.0, None))
    write_model(tmp_path / "m", replace(state, theta_bounds=bounds))
    assert read_model(tmp_path / "m").theta_bounds == bounds


def test_nothing_is_pickled_or_unpickled(state, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    write_model(tmp_path / "m", state)
    assert read_model(tmp_path / "m").op_method == "powell"


def test_file_is_closed_after_reading(state, tmp_path):
    path = tmp_path / "m"
    write_model(path, state)
    read = read_model(path)
    with h5py.File(path, "r+") as file:
        file["theta"][...] = 0
    assert_array_equal(read.theta, state.theta)
