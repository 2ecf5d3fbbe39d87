"""Training and labelling on the reference data: the emulator, and LAMOST with masks and a missing arm."""

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.validate import robust_scatter

pytestmark = pytest.mark.shared
LIGHT = 299792.458
"""Speed of light in km/s."""


def test_emulator(cases):
    """Every 24th of its pixels, 300 stars to learn from and 100 others: no polynomial fits it exactly."""
    names = ("TEFF", "LOGG", "FE_H", "ALPHA_FE", "VMACRO")
    pixels = slice(None, None, 24)
    labels, flux, ivar = (array[:, pixels] if array.shape[1] > 5 else array for array in cases.case_a(300, 0))
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(names, 2))
    _, s2, metadata = model.train()
    assert {record["status"] for record in metadata} <= {PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER}
    assert max(record["duality_gap"] for record in metadata) < 1e-9
    assert (s2 > 0).mean() > 0.5

    truth, flux, ivar = (array[:, pixels] if array.shape[1] > 5 else array for array in cases.case_a(100, 1))
    inferred, covariance, records = model.test(flux, ivar)
    assert all(record["status"].has_solution for record in records)
    scatter = robust_scatter(inferred, truth)
    assert (scatter[:4] < EMULATOR_SCATTER).all(), scatter
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert (np.median(error, axis=0) < 1.2 * scatter).all()


EMULATOR_SCATTER = np.array([80, 0.06, 0.05, 0.05])
"""K and dex, at 301 pixels; the whole spectrum gives 33 K, 0.024 and 0.022 dex with 1,000 training stars."""


@pytest.fixture(scope="module")
def lamost(shared):
    """Real stars between 4500 and 7500 K at rest on one grid, divided by their own running mean; masks as ivar = 0."""
    with np.load(shared("data/lamost_dr1.npz"), allow_pickle=False) as file:
        wave, flux, ivar = file["wave_vacuum_angstrom"], file["flux"].astype(float), file["ivar"].astype(float)
        bad = (file["andmask"] != 0) | ~np.isfinite(flux)
        labels, velocity = file["labels"], file["rv_kms"]
    ivar[bad | (flux <= 0)] = 0
    good = (labels[:, 0] > 4500) & (labels[:, 0] < 7500) & np.isfinite(velocity) & ((ivar > 0).mean(axis=1) > 0.6)
    labels, flux, ivar, velocity = labels[good], flux[good], ivar[good], velocity[good]
    grid = np.exp(np.linspace(np.log(4000), np.log(8700), 300))
    rest, rest_ivar = np.empty((len(flux), 300)), np.empty((len(flux), 300))
    for n, (y, w, v) in enumerate(zip(flux, ivar, velocity, strict=True)):
        smooth = np.convolve(np.where(w > 0, y, 0), np.ones(151), "same")
        smooth /= np.maximum(np.convolve(w > 0, np.ones(151), "same"), 1)
        y = np.where((w > 0) & (smooth > 0), y / np.where(smooth > 0, smooth, 1), 1.0)
        at_rest = wave / (1 + v / LIGHT)
        rest[n] = np.interp(grid, at_rest, y)
        # A pixel that borders on a masked one is masked.
        neighbour = np.clip(np.searchsorted(at_rest, grid), 1, len(wave) - 1)
        rest_ivar[n] = np.minimum(w[neighbour], w[neighbour - 1]) * np.interp(grid, at_rest, smooth) ** 2
    return labels, rest, rest_ivar


def test_lamost_with_masks_and_a_missing_arm(lamost):
    labels, flux, ivar = lamost
    assert len(labels) > 80
    assert 0.01 < (ivar == 0).mean() < 0.3
    fold = np.random.default_rng(0).integers(0, 5, len(labels))
    held = fold == 0
    flux = np.where(ivar > 0, flux, np.nan)
    model = tc.CannonModel(
        labels[~held], flux[~held], ivar[~held], tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 1),
        regularization=10.0,
    )  # fmt: skip
    _, _, metadata = model.train()
    assert max(record["duality_gap"] for record in metadata) < 1e-9

    inferred, covariance, _ = model.test(flux[held], ivar[held])
    scatter = robust_scatter(inferred, labels[held])
    assert scatter[0] < LAMOST_SCATTER * robust_scatter(labels[:, :1])[0], scatter
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))

    blue = np.arange(300) < 150
    for arm in (blue, ~blue):
        some = np.where(arm, 0.0, ivar[held])
        partial, partial_covariance, records = model.test(flux[held], some)
        assert all(record["status"] in (StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET) for record in records)
        assert np.isfinite(partial).all()
        partial_error = np.sqrt(np.diagonal(partial_covariance, axis1=1, axis2=2))
        assert (partial_error > error).all()
        kept = np.where(arm, np.nan, flux[held])
        np.testing.assert_array_equal(model.test(kept, some)[0], partial)


LAMOST_SCATTER = 0.6
"""Robust scatter of TEFF over that of the sample itself; 1 is what no information gives."""
