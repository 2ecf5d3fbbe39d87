"""A model of the original package, converted: its predictions, its labels, and what it lacks."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import least_squares

import bayes_cannon as tc
from bayes_cannon.model.original import OriginalModelWarning

NAMES = ("TEFF", "LOGG", "FE_H")
QUADRATIC = [
    [(0, 1)], [(1, 1)], [(2, 1)], [(0, 2.0)], [(1, 1), (0, 1)], [(2, 1), (0, 1)], [(1, 2.0)], [(2, 1), (1, 1)],
    [(2, 2.0)],
]  # fmt: skip
"""As `terminator` of the original package orders them, with the labels of a term in the order of their names."""
SHUFFLED = [QUADRATIC[d] for d in (4, 8, 0, 7, 1, 2, 3, 6, 5)]
SOME = [[(2, 3.0)], [(0, 1), (2, 1)], [(1, 1)]]


def original_terms(x: np.ndarray, terms: list) -> np.ndarray:
    """The formula of the original package's `get_label_vector`, shape (star, term)."""
    columns = [np.ones(len(x))]
    for term in terms:
        column = np.ones(len(x))
        for index, power in term:
            column *= x[:, index] ** power
        columns.append(column)
    return np.stack(columns, axis=1)


def original_scaling(state: dict) -> tuple[np.ndarray, np.ndarray]:
    """Fiducials and scales, as the original package has them after reading."""
    if "_scales" in state:
        return state["_fiducials"], state["_scales"]
    labels = state["training_set_labels"]
    return np.percentile(labels, 50, axis=0), np.ptp(np.percentile(labels, [2.5, 97.5], axis=0), axis=0)


def original_flux(state: dict, labels: np.ndarray) -> np.ndarray:
    """`CannonModel.__call__` of the original package, shape (star, pixel)."""
    fiducials, scales = original_scaling(state)
    return original_terms((labels - fiducials) / scales, state["vectorizer"][1]["terms"]) @ state["theta"].T


@pytest.fixture
def make(training) -> Callable[..., dict]:
    """Makes what the original package pickles, of the simulated training set, with some parts changed."""

    def made(
        terms: list = QUADRATIC, version: str = "0.2.96", model_class: str = "CannonModel", **parts: object
    ) -> dict:
        rng = np.random.default_rng(1)
        theta = rng.normal(0, 0.05, (60, 1 + len(terms)))
        theta[:, 0] = 1
        return {
            "vectorizer": ("PolynomialVectorizer", {"label_names": NAMES, "terms": terms, "metadata": {}}),
            "censors": {"label_names": NAMES, "num_pixels": 60, "items": {}},
            "regularization": None,
            "dispersion": training.dispersion,
            "theta": theta,
            "s2": np.full(60, 1e-4),
            "training_set_labels": training.labels,
            "metadata": {
                "version": version, "model_class": model_class, "modified": "2018", "training_set_hash": "d2e9",
            },
        } | parts  # fmt: skip

    return made


@pytest.fixture
def convert(tmp_path) -> Callable[..., tc.CannonModel]:
    """Writes a state with a protocol, under either name of NumPy's modules, and reads it as a model."""

    def converted(state: dict, protocol: int = 2, core: bytes = b"numpy._core") -> tc.CannonModel:
        path: Path = tmp_path / "old.model"
        path.write_bytes(pickle.dumps(state, protocol).replace(b"numpy._core", core))
        return tc.read_original_model(path)

    return converted


NONE = np.full((200, 60), np.nan)
STORED = {"_scales": np.array([700.0, 3.0, 1.5]), "_fiducials": np.array([4600.0, 2.0, 0.1])}


@pytest.mark.parametrize("stored", [{}, STORED], ids=["0.2", "0.9"])
@pytest.mark.parametrize("terms", [QUADRATIC, SHUFFLED, SOME], ids=["quadratic", "shuffled", "some"])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_predicts_as_the_original(terms, stored, kind, make, convert, training):
    state = make(terms, training_set_labels=training.labels.astype(kind), **stored)
    model = convert(state)
    assert_allclose(model(training.labels), original_flux(state, training.labels), rtol=0, atol=1e-12)
    fiducials, scales = original_scaling(state)
    assert_array_equal(model._fiducials, fiducials)
    assert_array_equal(model._scales, scales)
    assert_array_equal(model.training_set_labels, training.labels.astype(kind))
    if terms is not SOME:
        assert model.vectorizer == tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    else:
        assert model.vectorizer.readable_terms == ["1", "FE_H^3", "FE_H*TEFF", "LOGG"]


@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_every_protocol_gives_the_same(protocol, core, make, convert):
    """Protocols 4 and 5, where names have lengths, are tested in `tests/io/test_plain_pickle.py`."""
    assert convert(make(), protocol, core) == convert(make(), 5)


def test_labels_are_those_of_a_fit_by_scipy(make, convert, training):
    state = make(SHUFFLED)
    rng = np.random.default_rng(2)
    truth = training.labels[:6]
    ivar = rng.uniform(1e4, 4e4, (6, 60))
    flux = original_flux(state, truth) + rng.normal(size=ivar.shape) * np.sqrt(1 / ivar + state["s2"])
    labels, covariance, records = convert(state).test(flux, ivar)
    fiducials, scales = original_scaling(state)
    for n in range(6):
        weight = np.sqrt(ivar[n] / (1 + ivar[n] * state["s2"]))

        def residuals(x, n=n, weight=weight):
            return weight * (original_flux(state, x * scales + fiducials)[0] - flux[n])

        fits = [
            least_squares(
                lambda x: residuals(x[None]), (start - fiducials) / scales, xtol=1e-15, ftol=1e-15, gtol=1e-15
            )
            for start in (truth[n], fiducials)
        ]
        best = min(fits, key=lambda fit: fit.cost)
        expected = np.linalg.inv(best.jac.T @ best.jac) * np.outer(scales, scales)
        error = np.sqrt(np.diag(expected))
        assert_allclose((labels[n] - (best.x * scales + fiducials)) / error, 0, atol=1e-5)
        assert_allclose(covariance[n] / np.outer(error, error), expected / np.outer(error, error), atol=1e-4)
        assert records[n]["chi_sq"] == pytest.approx(2 * best.cost, rel=1e-9)


def test_settings_and_provenance(make, convert, training):
    mask = np.arange(60) < 20
    state = make(
        censors={"label_names": NAMES, "num_pixels": 60, "items": {"FE_H": mask}},
        regularization=np.linspace(0, 10, 60), dispersion=np.arange(60)[::-1],
    )  # fmt: skip
    state["theta"][np.ix_(~mask, [3, 6, 8, 9])] = 0  # The terms with FE_H, where it may not act.
    model = convert(state)
    assert model.censors == {"FE_H": ~mask}
    assert_array_equal(model.regularization, np.linspace(0, 10, 60))
    assert_array_equal(model.dispersion, np.arange(60.0)[::-1])
    assert model.dispersion.dtype == float
    assert model.certificates is None
    assert model.label_units == {}
    assert model.provenance == {
        "converted_from": "old.model", "original_version": "0.2.96", "original_class": "CannonModel",
        "original_modified": "2018", "original_training_set_hash": "d2e9",
    }  # fmt: skip
    assert type(model) is tc.CannonModel
    assert convert(make(regularization=np.float64(3))).regularization == 3
    assert convert(make()).regularization is None
    assert model(training.labels[:1]).shape == (60,)


def test_without_wavelengths_and_spectra_the_pixels_are_those_of_theta(make, convert, tmp_path, training):
    censors = {"label_names": NAMES, "num_pixels": 60, "items": {"FE_H": np.ones(60, bool)}}
    model = convert(make(dispersion=None, censors=censors, regularization=np.ones(60)))
    assert model.n_pixels == 60
    model.write(tmp_path / "new.model")
    assert tc.CannonModel.read(tmp_path / "new.model") == model
    with pytest.raises(ValueError, match="dispersion has 59 values, and the model 60 pixels"):
        model.dispersion = np.arange(59)
    model.dispersion = training.dispersion
    assert_array_equal(model.dispersion, training.dispersion)


def test_pixels_without_information_are_skipped(make, convert, training):
    state = make()
    state["theta"][[3, 5]], state["s2"][3], state["s2"][5] = np.eye(10)[0], np.inf, np.nan
    model = convert(state)
    assert_array_equal(np.flatnonzero(np.isnan(model.theta).all(axis=1)), [3, 5])
    assert_array_equal(model.s2[[3, 5]], np.inf)
    flux = original_flux(state, training.labels[:2])
    assert_allclose(np.delete(model(training.labels[:2]), [3, 5], axis=1), np.delete(flux, [3, 5], axis=1), atol=1e-12)
    ivar = np.full(flux.shape, 1e4)
    flux[:, [3, 5]] = 7  # No part of the fit.
    labels, _, records = model.test(flux, ivar)
    assert_allclose(labels, training.labels[:2], rtol=1e-6)
    assert [record["n_pixels"] for record in records] == [58, 58]


def test_written_and_read_it_is_the_same(make, convert, tmp_path):
    model = convert(make())
    model.write(tmp_path / "new.model")
    back = tc.CannonModel.read(tmp_path / "new.model")
    assert back == model
    assert back.provenance["original_version"] == "0.2.96"
    assert back.certificates is None


def test_bounds_make_a_restricted_model(make, convert, tmp_path):
    state = make(
        model_class="RestrictedCannonModel", theta_bounds={"LOGG*TEFF": (None, 0.5), "TEFF^2": (-1, 1)}, **STORED
    )
    model = convert(state)
    assert isinstance(model, tc.RestrictedCannonModel)
    assert model.theta_bounds == {"LOGG*TEFF": (None, 0.5), "TEFF^2": (-1.0, 1.0)}
    model.write(tmp_path / "new.model")
    assert tc.CannonModel.read(tmp_path / "new.model") == model


def test_with_spectra_it_can_be_trained_again(make, convert, training, trained):
    """Theta of the file is near the optimum, and its certificates are not known; trained here they are."""
    spectra = {"training_set_flux": training.flux, "training_set_ivar": training.ivar}
    model = convert(make(theta=trained.theta + 1e-4, s2=trained.s2, **spectra))
    assert_array_equal(model.training_set_flux, training.flux)
    assert model.certificates is None
    labels, _, records = model.test(training.flux[:8], training.ivar[:8])
    assert {record["status"] for record in records} <= {0, 1}
    assert np.isfinite([record["misfit"] for record in records]).all()
    assert np.isfinite(labels).all()
    theta, _, _ = model.train()
    assert_allclose(theta, trained.theta, atol=1e-6)
    assert model.certificates["status"].max() <= 1


@pytest.mark.slow
def test_with_spectra_it_is_sampled_and_calibrated(make, convert, training, trained):
    spectra = {"training_set_flux": training.flux, "training_set_ivar": training.ivar}
    model = convert(make(theta=trained.theta, s2=trained.s2, **spectra))
    tree = model.sample(pixels=[0, 1], method="psis", n_draws=500, key=0)
    assert_allclose(tree["summary/theta_mean"], trained.theta[:2], atol=0.01)
    calibration = model.calibrate(n_folds=2, seed=0)
    assert calibration is model.calibration
    labels, covariance, _ = model.test(training.flux[:8], training.ivar[:8])
    assert np.isfinite(labels).all()
    assert (np.linalg.eigvalsh(covariance) > 0).all()


def test_without_spectra_it_says_what_is_missing(make, convert, training):
    model = convert(make())
    for verb in (model.train, model.sample, model.calibrate):
        with pytest.raises(TypeError, match="holds no training spectra"):
            verb()
    assert model.posterior is None
    _, _, records = model.test(training.flux[:1], training.ivar[:1])
    assert np.isfinite(records[0]["misfit"])


def test_its_figures(make, convert):
    pytest.importorskip("matplotlib")
    model = convert(make())
    for figure in (tc.plot.theta, tc.plot.scatter):
        figure(model)


def test_not_trained_with_spectra(make, convert, training):
    state = make(theta=None, s2=None, training_set_flux=training.flux, training_set_ivar=training.ivar)
    model = convert(state)
    assert not model.is_trained
    with pytest.raises(ValueError, match="not trained, and holds no training spectra"):
        convert(make(theta=None, s2=None))


def at(name: str, place: object, value: float) -> Callable[[dict], None]:
    """Puts a value in its place in an array of the state, which is copied."""

    def change(state: dict) -> None:
        state[name] = state[name].copy()
        state[name][place] = value

    return change


def part(**parts: object) -> Callable[[dict], None]:
    return lambda state: state.update(parts)


def terms(*some: list) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        state["vectorizer"][1]["terms"] = list(some)
        state["theta"] = state["theta"][:, : 1 + len(some)]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at("theta", 4, np.nan), "theta is NaN or infinite and s2 finite at 1 of 60 pixels, first at pixel 4"),
        (at("theta", (4, 2), np.inf), "theta is NaN or infinite and s2 finite at 1 of 60 pixels, first at pixel 4"),
        (at("s2", 4, -1e-9), "s2 is negative at 1 of 60 pixels, first at pixel 4"),
        (at("s2", slice(None), np.inf), "s2 is NaN or infinite at all pixels"),
        (at("training_set_labels", (3, 1), np.nan), "the label 'LOGG' of training star 3 is nan"),
        (at("training_set_labels", (slice(None), 1), 2.0), "the scale of the label 'LOGG' is 0.0"),
        (part(_scales=np.array([1, -1, 1.0]), _fiducials=np.zeros(3)), "the scale of the label 'LOGG' is -1.0"),
        (part(_scales=np.ones(3), _fiducials=np.full(3, np.nan)), "the fiducial labels must be finite"),
        (part(regularization=-1.0), "regularization must be finite and not negative"),
        (part(dispersion=np.full(60, np.nan)), "dispersion must be finite"),
        (part(training_set_flux=NONE, training_set_ivar=np.ones((200, 60))), "training_set_flux must be finite"),
        (part(censors={"items": {"MG_FE": np.ones(60, bool)}}), "unknown label 'MG_FE' for censoring"),
        (part(theta_bounds={"MG_FE": (0, 1)}), "unknown label 'MG_FE'"),
        (part(theta_bounds={"TEFF": (1, 0)}), "in the order"),
        (terms([(0, 1)], [(0, 1.5)]), "the power of TEFF must be a positive integer, got 1.5"),
        (terms([(0, 1)], [(0, -1)]), "the power of TEFF must be a positive integer, got -1"),
        (terms([(0, 1)], [(0, 1e9)]), "is of degree 1000000000, above 100"),
        (terms([(0, 1)], [(0, np.inf)]), "a term must be a list of pairs"),
        (terms([(0, 1)], [(1, 0)]), "one of its terms is the constant"),
        (terms([(0, 1), (1, 1)], [(1, 1), (0, 1.0)]), "the term 'TEFF\\*LOGG' occurs more than once"),
    ],
)  # fmt: skip
def test_values_of_no_model_are_refused(change, said, make, convert):
    state = make()
    change(state)
    with pytest.raises(ValueError, match=said) as caught:
        convert(state)
    assert "old.model" in str(caught.value)


def test_warns_of_s2_that_is_zero(make, convert):
    state = make()
    state["s2"][:31] = 0
    with pytest.warns(OriginalModelWarning, match="s2 is exactly 0 at 31 of 60 pixels.*photon noise alone"):
        convert(state)


def test_warns_of_lost_bounds_unknown_parts_and_acting_censored_terms(make, convert):
    with pytest.warns(OriginalModelWarning, match="whose bounds on theta are not in the file"):
        model = convert(make(model_class="RestrictedCannonModel"))
    assert type(model) is tc.CannonModel
    with pytest.warns(OriginalModelWarning, match="what it holds as errors is not known, and left out"):
        convert(make(errors=np.ones(3)))
    censors = {"items": {"FE_H": np.arange(60) > 0}}
    with pytest.warns(OriginalModelWarning, match="at 1 pixels terms act that its censors exclude"):
        convert(make(censors=censors))


def test_read_says_how_to_convert(make, tmp_path):
    for protocol in range(6):
        (tmp_path / "old.model").write_bytes(pickle.dumps(make(), protocol))
        with pytest.raises(ValueError, match=r"old\.model.*original package.*bayes-cannon convert OLD NEW"):
            tc.CannonModel.read(tmp_path / "old.model")
