"""The public functions that ``fuzz.py`` calls, with valid arguments, and what must not change their results."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import bayes_cannon as tc
from bayes_cannon.vectorizer import polynomial as text_terms

N_STARS, N_PIXELS, NAMES = 40, 12, ("TEFF", "LOGG")


@dataclass(frozen=True)
class Target:
    """A function, valid arguments, how often it is called, and which of its arguments take any copy of an array.

    ``refused`` targets take seconds where they accept what they are given: they are never called with valid arguments.
    """

    name: str
    call: Callable[..., Any]
    valid: Mapping[str, Any]
    weight: float = 1.0
    refused: bool = False


@cache
def data() -> dict[str, np.ndarray]:
    """Spectra of a quadratic model of two labels, with noise."""
    rng = np.random.default_rng(7)
    labels = np.column_stack([rng.uniform(4000, 5500, N_STARS), rng.uniform(1, 3.5, N_STARS)])
    x = (labels - [4750, 2.25]) / [1500, 2.5]
    terms = tc.vectorizer.PolynomialVectorizer(NAMES, 2)(x)
    theta = rng.normal(0, 0.1, (N_PIXELS, 6))
    theta[:, 0] = 1
    sigma = rng.uniform(0.003, 0.015, (N_STARS, N_PIXELS))
    flux = (theta @ terms).T + np.hypot(sigma, 0.003) * rng.normal(size=sigma.shape)
    wavelength = np.linspace(5000.0, 5100.0, N_PIXELS)
    return {"labels": labels, "flux": flux, "ivar": sigma**-2, "wavelength": wavelength, "x": x}


@cache
def trained(scatter: Any = None) -> tc.CannonModel:
    """A trained model; nobody may change it."""
    model = new_model(scatter=scatter)
    model.train()
    for array in (model.theta, model.s2, model.training_set_flux, model.training_set_ivar, model.training_set_labels):
        array.setflags(write=False)
    return model


def new_model(**changed: Any) -> tc.CannonModel:
    """An untrained model of the data."""
    d = data()
    given = {
        "training_set_labels": d["labels"], "training_set_flux": d["flux"], "training_set_ivar": d["ivar"],
        "vectorizer": tc.vectorizer.PolynomialVectorizer(NAMES, 2), "dispersion": d["wavelength"],
    }  # fmt: skip
    return tc.CannonModel(**(given | changed))


def train(**changed: Any) -> tc.CannonModel:
    """A model that was trained on what is given."""
    model = new_model(**changed)
    model.train()
    return model


def _set(name: str) -> Callable[..., Any]:
    def setter(value: Any) -> Any:
        model = new_model()
        setattr(model, name, value)
        return getattr(model, name)

    return setter


def _of_trained(name: str, **others: Any) -> Callable[..., Any]:
    return lambda **given: getattr(copy.copy(trained()), name)(**given, **others)


def _fit(labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Callable[..., Any]:
    slope, middle = np.nan_to_num(labels).std(axis=0), np.nan_to_num(labels).mean(axis=0)
    return lambda flux, ivar: (middle + slope * ivar.sum(axis=1, keepdims=True), None)


@cache
def files() -> Path:
    """A folder for what is written."""
    return Path(tempfile.mkdtemp(prefix="bayes-cannon-fuzz-"))


def _model_targets() -> list[Target]:
    d = data()
    spectra = {"flux": d["flux"][:8], "ivar": d["ivar"][:8]}
    given = {"training_set_labels": d["labels"], "training_set_flux": d["flux"], "training_set_ivar": d["ivar"]}
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    settings = {
        "dispersion": d["wavelength"], "regularization": np.full(N_PIXELS, 2.0),
        "censors": {"TEFF": np.arange(N_PIXELS) < 3}, "scale_factor": 1.0, "label_units": {"TEFF": "K"},
        "dispersion_unit": "Angstrom", "scatter": None, "rho_warning": 0.99,
    }  # fmt: skip
    bounds = {"TEFF": (-0.1, 0.1), "LOGG^2": (None, 0.0)}
    by_name = {name: d["labels"][:, k] for k, name in enumerate(NAMES)}
    theta, s2 = np.ones((N_PIXELS, 6)), np.full(N_PIXELS, 1e-4)
    return [
        Target("CannonModel", new_model, given | {"vectorizer": vectorizer} | settings, 5),
        Target("CannonModel of a table", new_model, {"training_set_labels": by_name}, 2),
        Target("CannonModel and train", train, {name: given[name] for name in given} | {"regularization": 1.0}, 2),
        Target("RestrictedCannonModel", lambda **g: tc.RestrictedCannonModel(**given, vectorizer=vectorizer, **g),
               {"theta_bounds": bounds}, 2),
        *(Target(f"model.{name} =", _set(name), {"value": settings[name]})
          for name in ("dispersion", "regularization", "censors", "scatter")),
        Target("model.theta_bounds =", _set("theta_bounds"), {"value": bounds}),
        Target("model.integrate_theta =", _set("integrate_theta"), {"value": True}, 0.3),
        Target("train", lambda **g: new_model().train(**g), {
            "op_method": None, "op_kwds": None, "dof_correction": False, "max_memory": 1e8, "progress": None}),
        Target("train by l_bfgs_b", lambda **g: new_model().train(op_method="l_bfgs_b", **g),
               {"op_kwds": {"factr": 1e7, "maxiter": 50}}, 0.5),
        Target("train_path", lambda **g: new_model().train_path(**g), {"lambdas": np.array([1.0, 10.0]),
               "progress": None}),
        Target("scatter_path", lambda **g: new_model().scatter_path(**g), {"candidates": [tc.scatter.LowRank(1)],
               "n_folds": 2, "held_out": 1, "seed": 0, "progress": None}, 0.5, refused=True),
        Target("order_path", lambda **g: new_model().order_path(**g), {"orders": [1], "regularizations": [0.0],
               "n_folds": 2, "held_out": 1, "seed": 0, "progress": None}, 0.5, refused=True),
        Target("use_theta", lambda theta, s2: _used(theta, s2), {"theta": theta, "s2": s2}),
        Target("model()", _of_trained("__call__"), {"labels": d["labels"][:8]}),
        Target("leverage", _of_trained("leverage"), {"labels": d["labels"][:8]}),
        Target("in_convex_hull", _of_trained("in_convex_hull"), {"labels": d["labels"][:8]}),
        Target("latent_factors", lambda **g: trained(tc.scatter.LowRank(1)).latent_factors(**g),
               spectra | {"labels": d["labels"][:8]}),
        Target("test", _of_trained("test"), spectra | {"initial_labels": d["labels"][:8], "op_kwds": None,
               "dispersion": d["wavelength"], "progress": None}, 4),
        Target("fit_labels", _of_trained("fit_labels"), spectra | {"initial_labels": d["labels"][0],
               "dispersion": d["wavelength"], "progress": None}, 3),
        Target("fit_label_stream", lambda **g: list(trained().fit_label_stream(**g)),
               {"batches": [(d["flux"][:8], d["ivar"][:8])], "initial_labels": d["labels"][0]}, 2),
        Target("error_budget", _of_trained("error_budget"), spectra | {"fit": None}),
        Target("sample_labels", _of_trained("sample_labels"), {"flux": d["flux"][:2], "ivar": d["ivar"][:2], "key": 0,
               "prior": "flat", "bounds": {"TEFF": (3000, 6000)}, "method": "nuts", "n_chains": 2, "n_draws": 4,
               "n_warmup": 4, "dispersion": d["wavelength"], "progress": None}, 1, refused=True),
        Target("sample", _of_trained("sample"), {"key": 0, "method": "psis", "pixels": [0], "n_chains": 2,
               "n_warmup": 4, "n_draws": 4, "theta_0": (1.0, 0.1), "s_scale": 0.1, "store": None, "keep_draws": None,
               "overwrite": False, "progress": None}, 1, refused=True),
        Target("use_posterior", _of_trained("use_posterior"), {"posterior": files() / "posterior.zarr"}, refused=True),
        Target("calibrate", _of_trained("calibrate"), {"n_folds": 2, "seed": 0, "groups": np.arange(N_STARS),
               "reference_errors": np.ones((N_STARS, 2)), "key": 0, "progress": None}, 0.3, refused=True),
        Target("write", _of_trained("write"), {"path": files() / "a.model", "include_training_set_spectra": True,
               "overwrite": True, "protocol": None}),
        Target("read", lambda path: tc.CannonModel.read(path), {"path": files() / "a.model"}, refused=True),
        Target("load_model", lambda path: tc.load_model(path), {"path": files() / "a.model"}, refused=True),
    ]  # fmt: skip


def _used(theta: Any, s2: Any) -> tc.CannonModel:
    model = new_model()
    model.use_theta(theta, s2)
    return model


def _array_targets() -> list[Target]:
    d = data()
    w, regions = d["wavelength"], [(5000.0, 5020.0), (5050.0, None)]
    continuum = {
        "dispersion": w, "flux": d["flux"], "ivar": d["ivar"], "continuum_pixels": np.arange(N_PIXELS) % 2 == 0,
        "L": 1400.0, "order": 1, "regions": [(5000.0, 5100.0)], "fill_value": 1.0,
    }  # fmt: skip
    inferred, covariance = d["labels"] + 1, np.tile(np.diag([2500.0, 0.01]), (N_STARS, 1, 1))
    compared = {"inferred": inferred, "reference": d["labels"]}
    with_errors = compared | {"covariance": covariance}
    pixel = {"flux": d["flux"][:, 0], "ivar": d["ivar"][:, 0]}
    design = tc.vectorizer.PolynomialVectorizer(NAMES, 2)(d["x"]).T
    chosen = {"labels": d["labels"], "label_names": ["a", "b"], "n_neighbors": 5, "trim": 0.1}
    theta, s2 = np.ones((N_PIXELS, 6)), np.full(N_PIXELS, 1e-4)
    return [
        Target("continuum.normalize", tc.continuum.normalize, continuum, 3),
        Target("continuum.sines_and_cosines", tc.continuum.sines_and_cosines, continuum, 2),
        Target("censoring.create_mask", tc.censoring.create_mask, {"dispersion": w, "censored_regions": regions}, 2),
        Target("censoring.create_inverse_mask", tc.censoring.create_inverse_mask, {"dispersion": w,
               "kept_regions": regions}),
        Target("Censors", tc.censoring.Censors, {"label_names": NAMES, "num_pixels": N_PIXELS,
               "items": {"TEFF": np.arange(N_PIXELS) < 3}}, 2),
        Target("design_matrix_mask", tc.censoring.design_matrix_mask, {
            "censors": tc.censoring.Censors(NAMES, 3, {"TEFF": np.ones(3, bool)}),
            "vectorizer": tc.vectorizer.PolynomialVectorizer(NAMES, 2)}, 0.5),
        Target("bias", tc.validate.bias, compared), Target("robust_scatter", tc.validate.robust_scatter, compared),
        Target("plain_scatter", tc.validate.plain_scatter, compared),
        Target("pulls", tc.validate.pulls, with_errors | {"reference_error": d["labels"] * 0.01}),
        Target("label_errors", tc.validate.label_errors, {"covariance": covariance}),
        Target("log_scores", tc.validate.log_scores, with_errors),
        Target("summary_table", tc.validate.summary_table, with_errors | {"label_names": NAMES,
               "units": {"TEFF": "K"}, "reference_error": d["labels"] * 0.01}, 2),
        Target("folds", tc.validate.folds, {"n_stars": 10, "k": 3, "seed": 0, "groups": np.arange(10)}, 2),
        Target("cross_validate", tc.validate.cross_validate, {"fit": _fit, "labels": d["labels"], "flux": d["flux"],
               "ivar": d["ivar"], "k": 3, "seed": 0, "groups": np.arange(N_STARS), "reject": None}, 2),
        Target("usable", tc.training_set.usable, {"flux": d["flux"], "ivar": d["ivar"]}, 2),
        Target("balance", tc.training_set.balance, chosen | {"n": 10, "method": "density", "seed": 0,
               "alpha": 0.5}, 2),
        Target("isolated", tc.training_set.isolated, chosen),
        Target("fit_spectrum", tc.fitting.fit_spectrum, {"flux": d["flux"][0], "ivar": d["ivar"][0], "initial_labels":
               d["labels"][0], "vectorizer": tc.vectorizer.PolynomialVectorizer(NAMES, 2), "theta": theta, "s2": s2,
               "fiducials": np.array([4750.0, 2.25]), "scales": np.array([1500.0, 2.5])}, 2),
        Target("fit_theta_by_linalg", tc.fitting.fit_theta_by_linalg, pixel | {"s2": 1e-4, "design_matrix": design}),
        Target("chi_sq", tc.fitting.chi_sq, pixel | {"theta": theta[0], "design_matrix": design, "gradient": True}),
        Target("L1Norm_variation", tc.fitting.L1Norm_variation, {"theta": theta[0]}, 0.5),
        Target("short_hash", tc.utils.short_hash, {"contents": ["a", 1]}, 0.3),
    ]  # fmt: skip


def _vectorizer_targets() -> list[Target]:
    vectorizer, x = tc.vectorizer.PolynomialVectorizer(NAMES, 2), data()["x"]
    structured = [[("TEFF", 1)], [("LOGG", 2), ("TEFF", 1)]]
    shown = {"mul": "*", "pow": "^", "bracket": False}
    return [
        Target("PolynomialVectorizer", tc.vectorizer.PolynomialVectorizer, {"label_names": NAMES, "order": 2,
               "cross_term_order": 1}, 2),
        Target("PolynomialVectorizer of terms", tc.vectorizer.PolynomialVectorizer, {"label_names": NAMES,
               "terms": structured}, 2),
        Target("PolynomialVectorizer of text", tc.vectorizer.PolynomialVectorizer, {"label_names": NAMES,
               "terms": "TEFF + LOGG^2*TEFF"}),
        Target("BaseVectorizer", tc.vectorizer.BaseVectorizer, {"label_names": NAMES,
               "terms": [((0, 1),), ((0, 1), (1, 2))]}),
        Target("vectorizer()", vectorizer, {"labels": x}),
        Target("get_label_vector", vectorizer.get_label_vector, {"labels": x}),
        Target("get_label_vector_derivative", vectorizer.get_label_vector_derivative, {"labels": x}),
        Target("vectorizer.label_rows", vectorizer.label_rows, {"labels": x}),
        Target("get_human_readable_label_vector", vectorizer.get_human_readable_label_vector, shown, 0.5),
        Target("get_human_readable_label_term", vectorizer.get_human_readable_label_term, shown | {"term_index": 3,
               "label_names": NAMES}),
        Target("term_index", vectorizer.term_index, {"text": "TEFF*LOGG"}),
        Target("terminator", text_terms.terminator, {"label_names": NAMES, "order": 2, "cross_term_order": 1}),
        Target("parse_label_vector_description", text_terms.parse_label_vector_description, {
            "description": ["TEFF^2", "LOGG"], "label_names": NAMES}),
        Target("get_label_names", text_terms.get_label_names, {"label_vector": structured}),
        Target("human_readable_label_term", text_terms.human_readable_label_term, shown | {"term": [(0, 1), (1, 2)],
               "label_names": NAMES}),
        Target("human_readable_label_vector", text_terms.human_readable_label_vector, shown | {"terms": structured,
               "label_names": NAMES}),
    ]  # fmt: skip


def _scatter_targets() -> list[Target]:
    covariance = np.diag(np.full(N_PIXELS, 2.0))
    return [
        Target("scatter.LowRank", tc.scatter.LowRank, {"rank": 2, "heavy_tails": False, "tolerance": 0.01}),
        Target("scatter.Full", tc.scatter.Full, {"shrinkage": 0.1, "heavy_tails": False, "share": 0.05}),
        Target("scatter.Given", tc.scatter.Given, {"covariance": covariance, "heavy_tails": False}),
        Target("train with LowRank", lambda rank, tolerance: train(scatter=tc.scatter.LowRank(rank, tolerance=tolerance
               )), {"rank": 1, "tolerance": 0.01}, 0.3, refused=True),
        Target("train with Given", lambda covariance: train(scatter=tc.scatter.Given(covariance)),
               {"covariance": covariance}, 0.3, refused=True),
    ]  # fmt: skip


def _file_targets() -> list[Target]:
    from astropy.table import Table

    d, folder = data(), files()
    ids = np.array([f"star {n}" for n in range(N_STARS)])
    labels = {name: d["labels"][:, k] for k, name in enumerate(NAMES)}
    spectra = tc.io.Spectra(d["flux"], d["ivar"], d["wavelength"], ids, labels, units={"TEFF": "K"})
    table = Table({"star_id": ids[::-1], "FE_H": np.linspace(-1, 0, N_STARS)})
    return [
        Target("Spectra", tc.io.Spectra, {"flux": d["flux"], "ivar": d["ivar"], "wavelength": d["wavelength"],
               "star_id": ids, "labels": labels, "units": {"TEFF": "K"}, "attrs": {"a": 1}, "numbered": False}, 3),
        Target("Spectra.at", spectra.at, {"stars": np.arange(N_STARS) < 5}),
        Target("Spectra.label_array", spectra.label_array, {"label_names": NAMES}),
        Target("read_spectra", tc.io.read_spectra, {"paths": folder / "a.nc"}, refused=True),
        Target("write_spectra", tc.io.write_spectra, {"path": folder / "a.npz", "spectra": spectra,
               "overwrite": True}, 2),
        Target("read_table", tc.io.read_table, {"path": folder / "a.csv"}, refused=True),
        Target("write_table", tc.io.write_table, {"path": folder / "a.ecsv", "table": table, "overwrite": True}),
        Target("join_labels", tc.io.join_labels, {"spectra": spectra, "table": table, "id_column": "star_id",
               "by_row": False, "missing": (-9999.0,)}, 2),
        Target("label_table", tc.io.label_table, {"label_names": NAMES, "fit": trained().fit_labels(d["flux"],
               d["ivar"]), "star_id": ids, "label_units": {"TEFF": "K"}, "extra": {"RV": d["flux"][:, 0]},
               "meta": {"A": 1}}, 2),
        Target("colour_outliers", tc.io.colour_outliers, {"spectra": spectra, "threshold": 5.0}, 0.5),
        Target("read_gaia_xp", tc.io.read_gaia_xp, {"path": folder / "gaia", "cuts": {"TEFF": {"above": 1.0}},
               "wavelength_range": (4000.0, 9900.0), "log_flux": True}, 0.5, refused=True),
    ]  # fmt: skip


def _plot_targets() -> list[Target]:
    d, shown = data(), {"xlim": (5000.0, 5050.0), "latex_label_names": ["T", "g"]}
    covariance = np.tile(np.diag([2500.0, 0.01]), (N_STARS, 1, 1))

    def closed(draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: draw(**given) and None

    return [
        Target("plot.theta", closed(tc.plot.theta), shown | {"model": trained(), "indices": [1], "label_terms":
               ["TEFF"], "dispersion": d["wavelength"], "plot_kwds": None}, 0.4),
        Target("plot.scatter", closed(tc.plot.scatter), {"model": trained(), "xlim": (5000.0, None), "dispersion":
               d["wavelength"], "plot_kwds": None, "ax": None}, 0.4),
        Target("plot.one_to_one", closed(tc.plot.one_to_one), {"model": trained(), "test_labels": d["labels"], "cov":
               covariance, "latex_label_names": ["T", "g"], "reference": d["labels"], "label_units": {"TEFF": "K"},
               "scatter_kwds": None, "errorbar_kwds": None}, 0.4),
        Target("plot.spectrum", closed(tc.plot.spectrum), shown | {"model": trained(), "labels": d["labels"][0],
               "flux": d["flux"][0], "ivar": d["ivar"][0], "cov": covariance[0], "title": "a"}, 0.4),
        Target("plot.label_space", closed(tc.plot.label_space), {"labels": d["labels"], "chosen": np.arange(5),
               "label_names": NAMES, "latex_label_names": ["T", "g"]}, 0.4),
        Target("plot.factors", closed(tc.plot.factors), {"model": trained(tc.scatter.LowRank(1)), "indices": [0],
               "dispersion": d["wavelength"]}, 0.2),
        Target("plot.scatter_path", closed(tc.plot.scatter_path), {"path": object()}, 0.1, refused=True),
        Target("plot.theta_posterior", closed(tc.plot.theta_posterior), {"tree": object(), "terms": ["TEFF"]}, 0.1,
               refused=True),
    ]  # fmt: skip


@cache
def targets() -> list[Target]:
    """All of them."""
    mpl.use("agg")
    made = [_model_targets, _array_targets, _vectorizer_targets, _scatter_targets, _file_targets, _plot_targets]
    return [target for make in made for target in make()]


def _permuted_stars() -> tuple[Any, Any]:
    order = np.random.default_rng(1).permutation(N_STARS)
    d = data()
    model = train(training_set_labels=d["labels"][order], training_set_flux=d["flux"][order],
                  training_set_ivar=d["ivar"][order])  # fmt: skip
    labels = model.fit_labels(d["flux"][order], d["ivar"][order]).labels
    expected = trained().fit_labels(d["flux"], d["ivar"]).labels[order]
    return (model.theta, model.s2, labels), (trained().theta, trained().s2, expected)


def _permuted_pixels() -> tuple[Any, Any]:
    order, d = np.random.default_rng(2).permutation(N_PIXELS), data()
    model = train(training_set_flux=d["flux"][:, order], training_set_ivar=d["ivar"][:, order],
                  dispersion=d["wavelength"][order])  # fmt: skip
    labels = model.fit_labels(d["flux"][:, order], d["ivar"][:, order]).labels
    expected = trained().fit_labels(d["flux"], d["ivar"]).labels
    return (model.theta, model.s2, labels), (trained().theta[order], trained().s2[order], expected)


def _permuted_labels() -> tuple[Any, Any]:
    d, vectorizer = data(), tc.vectorizer.PolynomialVectorizer(NAMES[::-1], 2)
    model = train(training_set_labels=d["labels"][:, ::-1], vectorizer=vectorizer)
    fit, expected = model.fit_labels(d["flux"], d["ivar"]), trained().fit_labels(d["flux"], d["ivar"])
    return (model.s2, fit.labels[:, ::-1], fit.covariance[:, ::-1, ::-1]), (
        trained().s2, expected.labels, expected.covariance)  # fmt: skip


def _scaled_flux() -> tuple[Any, Any]:
    d = data()
    model = train(training_set_flux=8 * d["flux"], training_set_ivar=d["ivar"] / 64)
    fit, expected = model.fit_labels(8 * d["flux"], d["ivar"] / 64), trained().fit_labels(d["flux"], d["ivar"])
    return (model.theta / 8, model.s2 / 64, fit.labels, fit.covariance), (
        trained().theta, trained().s2, expected.labels, expected.covariance)  # fmt: skip


def _scaled_labels() -> tuple[Any, Any]:
    d, unit = data(), np.array([0.001, 10.0])
    model = train(training_set_labels=d["labels"] * unit)
    fit, expected = model.fit_labels(d["flux"], d["ivar"]), trained().fit_labels(d["flux"], d["ivar"])
    return (model.theta, model.s2, fit.labels / unit), (trained().theta, trained().s2, expected.labels)


def _masked_pixels() -> tuple[Any, Any]:
    d, ivar = data(), data()["ivar"].copy()
    ivar[:, [3, 7]] = 0
    kept = np.setdiff1d(np.arange(N_PIXELS), [3, 7])
    fit = trained().fit_labels(np.where(ivar > 0, d["flux"], np.nan), ivar)
    fewer = copy.copy(trained())
    fewer = new_model(training_set_flux=d["flux"][:, kept], training_set_ivar=d["ivar"][:, kept], dispersion=None)
    fewer.use_theta(trained().theta[kept], trained().s2[kept])
    expected = fewer.fit_labels(d["flux"][:, kept], d["ivar"][:, kept])
    return (fit.labels, fit.covariance, fit.chi_squared), (expected.labels, expected.covariance, expected.chi_squared)


def _dropped_stars() -> tuple[Any, Any]:
    """Ivar = 0 of all pixels of a star in training; its labels take part in the scaling, so theta is not compared."""
    d, ivar = data(), data()["ivar"].copy()
    inside = int(np.argmin(np.abs(d["x"]).max(axis=1)))
    ivar[inside] = 0
    with_it = train(training_set_ivar=ivar)
    others = np.arange(N_STARS) != inside
    without = train(training_set_labels=d["labels"][others], training_set_flux=d["flux"][others],
                    training_set_ivar=d["ivar"][others])  # fmt: skip
    return with_it.s2, without.s2


def _single_precision() -> tuple[Any, Any]:
    d = data()
    fit = trained().fit_labels(d["flux"].astype(np.float32), d["ivar"].astype(np.float32))
    model = train(training_set_flux=d["flux"].astype(np.float32), training_set_ivar=d["ivar"].astype(np.float32))
    return (fit.labels, model.theta @ np.ones(6)), (
        trained().fit_labels(d["flux"], d["ivar"]).labels, trained().theta @ np.ones(6))  # fmt: skip


def _continuum_of_permuted_stars() -> tuple[Any, Any]:
    d, order = data(), np.random.default_rng(3).permutation(N_STARS)
    fitted = [
        tc.continuum.sines_and_cosines(d["wavelength"], d["flux"][rows], d["ivar"][rows], np.arange(N_PIXELS), 200.0, 1)
        for rows in (order, np.arange(N_STARS))
    ]
    return fitted[0][0], fitted[1][0][order]


def _balanced_in_any_order() -> tuple[Any, Any]:
    d, order = data(), np.random.default_rng(4).permutation(N_STARS)
    chosen = [tc.training_set.balance(labels, 10, seed=3) for labels in (d["labels"][order], d["labels"])]
    return np.sort(order[chosen[0]]), chosen[1]


def _written_and_read() -> tuple[Any, Any]:
    path = files() / "kept.model"
    trained().write(path, include_training_set_spectra=True, overwrite=True)
    return tc.CannonModel.read(path), trained()


INVARIANCES: dict[str, tuple[Callable[[], tuple[Any, Any]], float]] = {
    "order of stars": (_permuted_stars, 1e-6), "order of pixels": (_permuted_pixels, 1e-6),
    "order of labels": (_permuted_labels, 1e-6), "unit of flux": (_scaled_flux, 1e-6),
    "unit of labels": (_scaled_labels, 1e-6), "ivar = 0 and no pixel": (_masked_pixels, 1e-9),
    "ivar = 0 and no star": (_dropped_stars, 1e-6), "float32": (_single_precision, 1e-4),
    "order of stars in the continuum": (_continuum_of_permuted_stars, 1e-12),
    "order of stars in balance": (_balanced_in_any_order, 0.0), "written and read": (_written_and_read, 0.0),
}  # fmt: skip
"""Pairs that must be the same within a tolerance relative to the largest value, by name."""
