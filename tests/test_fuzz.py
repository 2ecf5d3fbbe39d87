"""Odd arguments of the public functions are errors in words; and some of the calls of ``benchmarks/fuzz.py``."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import bayes_cannon as tc

SCRIPTS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("TEFF", "LOGG", "FE_H")
RAGGED, OBJECT, ROWS = [[1.0, 2.0], [3.0]], object(), np.ones((4, 3))


@pytest.fixture
def fuzz(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("fuzz")


@pytest.mark.slow
def test_no_call_ends_in_a_bare_exception(fuzz):
    counts, faults = fuzz.run(range(500), 5, lambda number: fuzz.call(number, 5))
    assert not [text for _, outcome, text, _ in faults.values() if outcome in fuzz.FAULTS]
    assert counts[fuzz.FINE] > 60
    assert counts[fuzz.WORDS] > 60


@pytest.mark.slow
def test_results_do_not_depend_on_order_units_or_what_is_masked(fuzz):
    assert {name: fuzz.invariance(name)[0] for name in fuzz.INVARIANCES} == dict.fromkeys(fuzz.INVARIANCES, fuzz.FINE)


def test_bare_exceptions_are_told_from_errors_in_words(fuzz):
    calls = {
        "words": lambda: tc.validate.folds(1), "of NumPy": lambda: tc.validate.folds(*np.ones((1, 1, 1))[0, 0, 0]),
        "of a missing argument": lambda: tc.validate.folds(),
    }  # fmt: skip
    told = {}
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        told[name] = fuzz.in_words(caught.value)
    assert told == {"words": True, "of NumPy": False, "of a missing argument": False}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tc.validate.bias(RAGGED), "inferred must be an array of real numbers, got"),
        (lambda: tc.validate.bias(ROWS, 1j), "reference must be real numbers, got values of type complex128"),
        (lambda: tc.validate.pulls(ROWS, ROWS, np.ones((3, 3, 3))), r"covariance must be that of \(4, 3\) labels"),
        (lambda: tc.validate.log_scores(ROWS, ROWS, np.ones((1, 3, 3))), r"covariance must be that of \(4, 3\) labels"),
        (
            lambda: tc.validate.log_scores(ROWS, ROWS, np.stack([np.eye(3), *np.ones((3, 3, 3))])),
            "covariance of star 1 is not positive definite",
        ),
        (lambda: tc.validate.folds(10, seed="0"), "seed must be an integer of at least 0, got '0'"),
        (lambda: tc.validate.folds(10, k=2.5), "the number of folds must be an integer, got 2.5"),
        (lambda: tc.validate.cross_validate(OBJECT, ROWS, ROWS, ROWS), "fit must be a function of labels"),
        (lambda: tc.validate.summary_table(ROWS, ROWS, label_names="TEFF"), "label_names must be a sequence of names"),
        (lambda: tc.training_set.balance(ROWS, 2, method=["density"]), r"unknown method \['density'\]"),
        (lambda: tc.training_set.isolated(np.eye(4), "0.1"), "trim must be a fraction from 0 to below 1, got '0.1'"),
        (lambda: tc.censoring.create_mask(np.arange(4.0), 7), "no region given"),
        (lambda: tc.censoring.create_mask(np.arange(4.0), ("a", 2)), "a region must be a pair|must be real numbers"),
        (lambda: tc.censoring.Censors(NAMES, 2.5), "num_pixels must be an integer of at least 0, got 2.5"),
        (lambda: tc.censoring.Censors(NAMES, 2, {"TEFF": RAGGED}), "mask of 'TEFF' must be an array"),
        (lambda: tc.continuum.normalize(np.arange(4.0), np.ones(4), np.ones(4), [0, 1, 2], regions=3), "list of pairs"),
        (lambda: tc.vectorizer.PolynomialVectorizer(NAMES, terms=5), "terms must be a text such as"),
        (lambda: tc.vectorizer.PolynomialVectorizer(NAMES, 10**20), "has more than 1,000,000 terms of 3 labels"),
        (lambda: tc.vectorizer.PolynomialVectorizer([1, 2], 2), "label_names must be a sequence of texts"),
        (lambda: tc.vectorizer.BaseVectorizer(NAMES, [("TEFF",)]), "a term must be a list of pairs"),
        (lambda: tc.vectorizer.PolynomialVectorizer(NAMES, 2).term_index(None), "a term must be a text"),
        (lambda: tc.scatter.LowRank(1, tolerance="x"), "tolerance must be positive, got 'x'"),
        (lambda: tc.scatter.Given(RAGGED), "the given covariance must be an array"),
        (lambda: tc.io.read_spectra(5), "path must be the path of a file, got 5"),
        (lambda: tc.io.read_table("x" * 300 + ".csv"), "a name of more than 255 bytes"),
        (lambda: tc.io.Spectra(ROWS, ROWS, labels=[1]), r"labels must map names to numbers, got \[1\]"),
        (lambda: tc.io.Spectra(ROWS, ROWS).at([9]), "there is no star 9: the rows are from 0 to 3"),
        (lambda: tc.io.Spectra(ROWS, ROWS).at([0.5]), "stars must be a mask of shape"),
        (lambda: tc.io.join_labels(ROWS, None), "spectra must be a Spectra"),
        (lambda: tc.io.label_table(NAMES, None), "fit must be what fit_labels returns, got None"),
        (lambda: tc.fitting.chi_sq("abc", ROWS, np.ones(4), np.ones(4)), "theta must be real numbers"),
        (lambda: tc.plot.spectrum(OBJECT, ROWS[0]), "model must be a CannonModel, got <object"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_what_it_got(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, one: model.test(*one, progress=5), "progress must be True, False, None or a function .* got 5"),
        (lambda model, one: model.test(*one, initial_labels=RAGGED), "initial_labels must be an array of real numbers"),
        (lambda model, one: model.test(*one, op_kwds=5), "op_kwds must map keywords to values, got 5"),
        (lambda model, one: next(model.fit_label_stream([one, 5])), "pairs of flux and ivar, got 5 as batch 1"),
        (lambda model, one: model.error_budget(*one, OBJECT), "fit must be what fit_labels of this model returns"),
        (lambda model, one: model.sample(key=1.5), "key must be an integer or a JAX key, got 1.5"),
        (lambda model, one: model.sample(theta_0=3), "theta_0 must be a pair of numbers"),
        (lambda model, one: model.sample(method="psis", n_chains=2, n_draws=4), "needs at least 25 draws"),
        (lambda model, one: model.sample_labels(*one, key=0, bounds={"TEFF": 3}), "bounds of TEFF must be a lower"),
        (lambda model, one: model.use_posterior(5), "posterior must be a tree that CannonModel.sample returned"),
        (lambda model, one: model.calibrate(reference_errors="x"), "reference_errors must be real numbers"),
        (lambda model, one: model.scatter_path(3), "candidates must be a list of kinds of scatter"),
        (lambda model, one: model.order_path("all"), "orders must be an integer"),
        (lambda model, one: model.train_path(iter([1.0])), "lambdas must be real numbers"),
        (lambda model, one: model.write("m.model", overwrite=[]), r"overwrite must be True or False, got \[\]"),
    ],
)  # fmt: skip
def test_errors_of_a_trained_model_name_the_argument(call, said, training, trained):
    with pytest.raises((ValueError, TypeError), match=said):
        call(trained, (training.flux[:2], training.ivar[:2]))


def test_masks_and_units_of_arrays_in_spectra_are_kept():
    """A masked value has ivar zero, and a Quantity its unit; both were lost."""
    masked = np.ma.masked_array(ROWS, [[True, False, False]] + [[False] * 3] * 3)
    assert tc.io.Spectra(masked, 2 * ROWS).ivar.tolist() == [[0, 2, 2]] + [[2, 2, 2]] * 3
    from astropy import units as u

    spectra = tc.io.Spectra(ROWS * u.Jy, ROWS * u.Jy**-2)
    assert spectra.units == {"flux": "Jy"}
