import multiprocessing
import os
import time
import warnings

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import bayes_cannon as tc
from bayes_cannon.execution import jax_settings
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.model.label_groups import with_spectra
from bayes_cannon.model.posterior_groups import log_likelihood

HOSTILE = {
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow_explicit",
    "jax_debug_key_reuse": True,
    "jax_legacy_prng_key": "error",
}


@pytest.fixture
def hostile():
    """Settings that other code of a user may need, for the whole process, as only these reach other threads."""
    before = {name: jax.config.values[name] for name in HOSTILE}
    for name, value in HOSTILE.items():
        jax.config.update(name, value)
    yield
    assert {name: jax.config.values[name] for name in HOSTILE} == HOSTILE
    for name, value in before.items():
        jax.config.update(name, value)


def spectra(training):
    """A few stars of the training set, of which one pixel is not known and one star has no information."""
    flux, ivar = training.flux[:8].copy(), training.ivar[:8].copy()
    flux[0, 0], ivar[0, 0], ivar[1] = np.nan, 0.0, 0.0
    return flux, ivar


def results(training, **options):
    model = training.model(**options)
    theta, s2, _ = model.train()
    return theta, s2, *model.test(*spectra(training))[:2]


@pytest.mark.parametrize("options", [{}, {"scatter": tc.scatter.LowRank(2)}], ids=["independent", "low rank"])
def test_settings_of_the_host_change_no_result(training, hostile, options):
    with_them = results(training, **options)
    for name, value in {"jax_debug_nans": False, "jax_debug_infs": False, "jax_numpy_rank_promotion": "allow",
                        "jax_numpy_dtype_promotion": "standard", "jax_transfer_guard": "allow"}.items():  # fmt: skip
        jax.config.update(name, value)
    without = results(training, **options)
    for name, value in HOSTILE.items():
        jax.config.update(name, value)
    for one, other in zip(with_them, without, strict=True):
        assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
@pytest.mark.filterwarnings("ignore::bayes_cannon.core.warnings.BayesCannonWarning")
def test_every_verb_works_with_them(training):
    flux, ivar = spectra(training)
    model = training.model(regularization=10.0, censors={"TEFF": np.arange(60) < 5})
    for method in ("l_bfgs_b", "powell", None):
        few = tc.CannonModel(training.labels, training.flux[:, :2], training.ivar[:, :2], training.vectorizer)
        few.train(op_method=method)
    model.train(dof_correction=True)
    model.train_path([0.0, 10.0])
    model.regularization = None
    model.train()
    for scatter in (tc.scatter.LowRank(2, heavy_tails=True), tc.scatter.Full(), tc.scatter.Given(1e-6 * np.eye(60))):
        correlated = training.model(scatter=scatter)
        correlated.train()
        fit = correlated.fit_labels(flux, ivar)
        correlated.error_budget(flux, ivar, fit)
        if correlated.factors is not None:
            correlated.latent_factors(flux[2:], ivar[2:], fit.labels[2:])
    model.scatter_path([tc.scatter.LowRank(1)])
    few = {"n_draws": 20, "n_warmup": 20}
    model.sample(pixels=range(3), **few)
    tree = model.sample(method="psis", **few)
    log_likelihood(tree, pixels=[5])
    labels = model.sample_labels(flux[:3], ivar[:3], key=1, prior="gaussian", n_chains=2, **few)
    with_spectra(model, labels, flux[:3], ivar[:3])
    fit = model.fit_labels(flux, ivar)
    model.error_budget(flux, ivar, fit)
    list(model.fit_label_stream([(flux, ivar)]))
    model.calibrate(n_folds=2)


def test_nothing_is_left_of_the_settings_of_the_package():
    before = dict(jax.config.values), jax.config.jax_enable_x64
    with own_jax_settings():
        assert jax.numpy.zeros(1).dtype == np.float64
    assert (dict(jax.config.values), jax.config.jax_enable_x64) == before


def test_a_process_forked_after_jax_had_started_is_refused(monkeypatch):
    monkeypatch.setattr(jax_settings, "_inherited", True)
    for enter in (make_room, lambda: own_jax_settings().__enter__()):
        with pytest.raises(RuntimeError, match=r'was forked .*get_context\("spawn"\)'):
            enter()


def _answer(queue, work):
    try:
        work()
        queue.put("done")
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize(
    "verb", ["train", "test", "fit_label_stream", "sample", "sample_labels", "calibrate", "__call__"]
)
def test_a_forked_child_is_told_why_not(training, trained, verb):
    trained.test(training.flux[:2], training.ivar[:2])
    spectra = training.flux[:2], training.ivar[:2]
    work = {
        "train": lambda: training.model().train(),
        "test": lambda: trained.test(*spectra),
        "fit_label_stream": lambda: list(trained.fit_label_stream([spectra])),
        "sample": lambda: trained.sample(),
        "sample_labels": lambda: trained.sample_labels(*spectra, key=1),
        "calibrate": lambda: trained.calibrate(),
        "__call__": lambda: trained(training.labels[:2]),
    }[verb]
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python and JAX warn of every fork of a process with threads.
        child = fork.Process(target=_answer, args=(queue, work))
        child.start()
    start = time.monotonic()
    try:
        answer = queue.get(timeout=20)
    finally:
        child.kill()
        child.join()
    assert time.monotonic() - start < 10
    assert answer == "done" if verb == "__call__" else "forked" in answer
