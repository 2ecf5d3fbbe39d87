"""Model files of the original package as they are: what is in them, and what is refused, by name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bayes_cannon.io.original import read_original

RNG = np.random.default_rng(0)
N_STARS, N_PIXELS = 7, 5
TERMS = [[(0, 1)], [(1, 1)], [(0, 2.0)], [(1, 1), (0, 1)], [(1, 2.0)]]
ATTRIBUTES = {
    "data_attributes": ("training_set_labels", "training_set_flux", "training_set_ivar"),
    "descriptive_attributes": ("vectorizer", "censors", "regularization", "dispersion"),
    "trained_attributes": ("theta", "s2"),
}


def state() -> dict:
    """What version 0.2.96 pickles."""
    return {
        "vectorizer": ("PolynomialVectorizer", {"label_names": ("TEFF", "LOGG"), "terms": TERMS, "metadata": {}}),
        "censors": {
            "label_names": ("TEFF", "LOGG"), "num_pixels": N_PIXELS, "items": {"LOGG": np.arange(N_PIXELS) < 2},
        },
        "regularization": np.float64(10),
        "dispersion": np.array([3, 1, 2, 5, 4]),
        "theta": RNG.normal(size=(N_PIXELS, 6)),
        "s2": np.full(N_PIXELS, 1e-4),
        "training_set_labels": RNG.normal(size=(N_STARS, 2)),
        "metadata": {
            "version": "0.2.96", "model_class": "CannonModel", "modified": "2018-04-17 12:00:00",
            "training_set_hash": "d2e9", **ATTRIBUTES,
        },
    }  # fmt: skip


def written(path: Path, values: object) -> Path:
    path.write_bytes(pickle.dumps(values))
    return path


def test_all_parts(tmp_path):
    values = state()
    model = read_original(written(tmp_path / "m", values))
    assert (model.version, model.model_class, model.modified, model.training_set_hash) == (
        "0.2.96", "CannonModel", "2018-04-17 12:00:00", "d2e9",
    )  # fmt: skip
    assert model.label_names == ("TEFF", "LOGG")
    assert model.terms == tuple(tuple(term) for term in TERMS)
    for name in ("theta", "s2", "training_set_labels", "dispersion"):
        assert getattr(model, name).tolist() == values[name].tolist()
    assert model.regularization == 10
    assert model.acts["LOGG"].tolist() == [True, True, False, False, False]
    assert model.training_set_flux is model.scales is model.fiducials is model.theta_bounds is None
    assert model.unknown == ()


def test_parts_of_0_9(tmp_path):
    values = state() | {
        "_scales": np.array([1000.0, 2.0]), "_fiducials": np.array([4500.0, 2.5]), "theta_bounds": {"TEFF": (None, 0)},
        "censors": None, "regularization": None, "dispersion": None, "something": 1,
        "training_set_flux": np.ones((N_STARS, N_PIXELS)), "training_set_ivar": np.ones((N_STARS, N_PIXELS)),
    }  # fmt: skip
    values["metadata"]["version"] = "0.9.00"
    model = read_original(written(tmp_path / "m", values))
    assert model.scales.tolist() == [1000, 2]
    assert model.fiducials.tolist() == [4500, 2.5]
    assert model.theta_bounds == {"TEFF": (None, 0)}
    assert model.acts == {}
    assert model.regularization is model.dispersion is None
    assert model.training_set_flux.shape == (N_STARS, N_PIXELS)
    assert model.unknown == ("something",)


def changed(**parts: object) -> Callable[[], dict]:
    return lambda: state() | parts


def of_vectorizer(**parts: object) -> Callable[[], dict]:
    return lambda: state() | {"vectorizer": ("PolynomialVectorizer", state()["vectorizer"][1] | parts)}


def of_version(version: object) -> Callable[[], dict]:
    return lambda: state() | {"metadata": {"version": version}}


def without(name: str) -> Callable[[], dict]:
    return lambda: {key: value for key, value in state().items() if key != name}


HOLLOW = dict.fromkeys(("theta", "s2", "training_set_labels", "regularization", "dispersion"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda: [1, 2], "states no version, and before 0.2.0"),
        (without("metadata"), "states no version, and before 0.2.0"),
        (of_version(None), "states no version"),
        (of_version("new"), "states no version"),
        (of_version("0.1.34"), "states version 0.1.34, and before 0.2.0"),
        (changed(**HOLLOW), "theta, s2 and the training labels are not in it.*on Python 3.11"),
        (without("theta"), "'theta' is missing"),
        (without("censors"), "'censors' is missing"),
        (changed(s2=None), "of theta and s2 it holds only one"),
        (changed(training_set_flux=np.ones((N_STARS, N_PIXELS))), "of training_set_flux and training_set_ivar"),
        (changed(_scales=np.ones(2)), "of scales and fiducials"),
        (changed(theta=np.ones((N_PIXELS, 7))), r"theta has shape \(5, 7\): its term axis must have length 6, as"),
        (changed(theta=np.ones(N_PIXELS)), r"theta must have shape \(pixel, term\)"),
        (changed(s2=np.ones(4)), r"s2 has shape \(4,\): its pixel axis must have length 5"),
        (changed(s2=[1.0] * 5), "s2 is of the type list"),
        (changed(s2=np.array(1.0)), "s2 is of the type ndarray, and no array of numbers"),
        (changed(s2=np.ones(5, bool)), "s2 is of the type ndarray"),
        (changed(training_set_labels=np.ones((7, 3))), "its label axis must have length 2, as the label names"),
        (changed(dispersion=np.ones(4)), "dispersion has shape"),
        (changed(regularization=np.ones(4)), "regularization has shape"),
        (changed(regularization="10"), "regularization is of the type str"),
        (changed(vectorizer=None), "its vectorizer is None"),
        (changed(vectorizer=("MyVectorizer", {})), "its vectorizer is a MyVectorizer"),
        (of_vectorizer(terms="TEFF + LOGG"), "its vectorizer is of the type tuple, and no pair"),
        (of_vectorizer(label_names=("TEFF", 2)), "label names are not all texts"),
        (of_vectorizer(label_names=()), "label names are not all texts"),
        (of_vectorizer(terms=[[(0, 1)], [(2, 1)]]), r"the factor \(2, 1\), and no pair \(index of the label from 0"),
        (of_vectorizer(terms=[[(-1, 1)]]), r"the factor \(-1, 1\)"),
        (of_vectorizer(terms=[[("TEFF", 1)]]), r"the factor \('TEFF', 1\)"),
        (of_vectorizer(terms=[3]), "the factor 3"),
        (changed(censors={"items": {"LOGG": np.ones(5)}}), "the censoring mask of 'LOGG' is of the type ndarray"),
        (changed(censors={"items": {"LOGG": np.ones(4, bool)}}), r"acts\['LOGG'\] has shape"),
        (changed(censors=np.ones(5)), "its censors are of the type ndarray"),
        (changed(theta_bounds=3), "its theta_bounds are of the type int"),
        (changed(theta_bounds={"TEFF": (None, "a")}), "theta_bounds of 'TEFF' are no pair"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(values, said, tmp_path):
    with pytest.raises(ValueError, match=said) as caught:
        read_original(written(tmp_path / "old.model", values()))
    assert "old.model" in str(caught.value)
    assert "thecannon 0.2.0" in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*old\.model"):
        read_original(tmp_path / "old.model")
    with pytest.raises(ValueError, match=tmp_path.name):
        read_original(tmp_path)
    (tmp_path / "new.model").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"new\.model: it is an HDF5 file.*CannonModel\.read"):
        read_original(tmp_path / "new.model")
    (tmp_path / "empty.model").touch()
    with pytest.raises(ValueError, match=r"empty\.model: pickle exhausted"):
        read_original(tmp_path / "empty.model")


def test_one_who_runs_code_is_refused_by_the_name_of_the_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    with pytest.raises(ValueError, match=r"old\.model: it asks for '_io\.open'.*could run any code"):
        read_original(written(tmp_path / "old.model", state() | {"theta": Trap()}))
    assert not (tmp_path / "sprung").exists()
