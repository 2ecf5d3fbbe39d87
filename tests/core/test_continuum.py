import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_cannon.continuum import normalize, sines_and_cosines
from bayes_cannon.core.continuum import ContinuumStatus
from bayes_cannon.core.warnings import (
    BayesCannonWarning,
    ContinuumNotDeterminedWarning,
    ContinuumNotPositiveWarning,
    FluxNotFiniteWarning,
    PixelsOutsideRegionsWarning,
)

SHARED = Path(__file__).parents[2] / "../shared/data"
WAVELENGTH = np.linspace(15100.0, 16900.0, 240)
REGIONS = [(15090, 15690), (15691, 16280), (16281, 16971)]
MASK = np.zeros(240, dtype=bool)
MASK[::2] = True
N_STARS = 4

seeds = st.integers(0, 2**32 - 1)


def spectra(seed=0, n_stars=N_STARS):
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.5, 2.0, (n_stars, 1)) * (1 + 0.3 * np.sin(WAVELENGTH / 400 + rng.uniform(0, 6, (n_stars, 1))))
    flux = level * (1 - 0.1 * rng.random((n_stars, 240)))
    ivar = rng.uniform(500, 5e3, (n_stars, 240)) * (rng.random((n_stars, 240)) < 0.9)
    return flux, ivar


def design_matrix(wavelength, L, order):
    columns = [np.ones_like(wavelength)]
    for o in range(1, order + 1):
        columns += [np.cos(2 * np.pi * o * wavelength / L), np.sin(2 * np.pi * o * wavelength / L)]
    return np.stack(columns, axis=1)


def reference(flux, ivar, mask, regions, L=1400, order=3):
    """Star by star and region by region, by orthogonal decomposition."""
    continuum = np.ones_like(flux)
    for star in range(len(flux)):
        for start, end in regions:
            inside = (start <= WAVELENGTH) & (end >= WAVELENGTH)
            used = inside & mask
            root = np.sqrt(ivar[star, used])
            matrix = design_matrix(WAVELENGTH, L, order)
            amplitudes = np.linalg.lstsq(root[:, None] * matrix[used], root * flux[star, used], rcond=None)[0]
            continuum[star, inside] = matrix[inside] @ amplitudes
    return continuum


@pytest.mark.parametrize("regions", [None, REGIONS[:1], REGIONS])
@pytest.mark.parametrize("pixels", [MASK, np.flatnonzero(MASK), list(np.flatnonzero(MASK)), np.flatnonzero(MASK)[::-1]])
@pytest.mark.parametrize(("L", "order"), [(1400, 3), (900.0, 1)])
def test_continuum_is_the_weighted_least_squares_fit_in_every_region(regions, pixels, L, order):
    flux, ivar = spectra()
    ivar[:, WAVELENGTH > 15690] *= regions != REGIONS[:1]
    continuum, _ = sines_and_cosines(WAVELENGTH, flux, ivar, pixels, L=L, order=order, regions=regions)
    bounds = regions or [(WAVELENGTH[0], WAVELENGTH[-1])]
    np.testing.assert_allclose(continuum, reference(flux, ivar, MASK, bounds, L, order), rtol=1e-9)


def test_amplitudes_belong_to_the_published_columns():
    flux, ivar = spectra()
    continuum, metadata = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    for star in range(N_STARS):
        for (start, end), record in zip(REGIONS, metadata[star], strict=True):
            inside = (start <= WAVELENGTH) & (end >= WAVELENGTH)
            assert record["region"] == (start, end)
            assert (record["order"], record["L"], record["fill_value"]) == (3, 1400, 1.0)
            assert record["n_pixels"] == (ivar[star, inside & MASK] > 0).sum()
            assert record["status"] == ContinuumStatus.FITTED
            assert record["message"] == "fitted"
            fitted = design_matrix(WAVELENGTH[inside], 1400, 3) @ record["amplitudes"]
            np.testing.assert_allclose(fitted, continuum[star, inside], rtol=1e-8)
            used = inside & MASK
            weighted = np.sqrt(ivar[star, used])[:, None] * design_matrix(WAVELENGTH[used], 1400, 3)
            np.testing.assert_allclose(record["condition_number"], np.linalg.cond(weighted), rtol=1e-6)


def test_a_continuum_of_sines_and_cosines_is_found_exactly():
    rng = np.random.default_rng(1)
    truth = 5 + design_matrix(WAVELENGTH, 1400, 3) @ rng.normal(0, 0.5, 7)
    flux = np.where(MASK, truth, 0.7 * truth)
    normalized, _, continuum, _ = normalize(WAVELENGTH, flux, np.ones(240), MASK)
    np.testing.assert_allclose(continuum[0], truth, rtol=1e-12)
    np.testing.assert_allclose(normalized[0], np.where(MASK, 1.0, 0.7), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, a=st.floats(0.01, 100), b=st.floats(0.01, 100))
def test_continuum_is_linear_in_the_flux(seed, a, b):
    (first, ivar), (second, _) = spectra(seed), spectra(seed + 1)
    one, two, both = (
        sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)[0]
        for flux in (first, second, a * first + b * second)
    )
    np.testing.assert_allclose(both, a * one + b * two, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, factor=st.floats(1e-20, 1e20))
def test_continuum_does_not_depend_on_the_signal_to_noise(seed, factor):
    flux, ivar = spectra(seed)
    continuum = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)[0]
    rescaled = sines_and_cosines(WAVELENGTH, flux, ivar * factor, MASK, regions=REGIONS)[0]
    np.testing.assert_allclose(rescaled, continuum, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, factor=st.floats(1e-18, 1e18))
def test_the_unit_of_the_flux_drops_out(seed, factor):
    flux, ivar = spectra(seed)
    normalized_flux, normalized_ivar, continuum, _ = normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    other_flux, other_ivar, other_continuum, _ = normalize(
        WAVELENGTH, factor * flux, ivar / factor**2, MASK, regions=REGIONS
    )
    np.testing.assert_allclose(other_flux, normalized_flux, rtol=1e-9)
    np.testing.assert_allclose(other_ivar, normalized_ivar, rtol=1e-9)
    np.testing.assert_allclose(other_continuum, factor * continuum, rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_ivar_zero_is_the_same_as_no_continuum_pixel_and_its_flux_never_matters(seed):
    flux, ivar = spectra(seed, n_stars=1)
    continuum, metadata = sines_and_cosines(WAVELENGTH, flux, ivar, MASK)
    dropped, _ = sines_and_cosines(WAVELENGTH, flux, np.ones_like(ivar) * ivar, MASK & (ivar[0] > 0))
    np.testing.assert_allclose(dropped, continuum, rtol=1e-10)
    for bad in (np.nan, np.inf, -1e30):
        spoiled = np.where(ivar > 0, flux, bad)
        again, again_metadata = sines_and_cosines(WAVELENGTH, spoiled, ivar, MASK)
        np.testing.assert_array_equal(again, continuum)
        np.testing.assert_array_equal(again_metadata[0][0]["amplitudes"], metadata[0][0]["amplitudes"])


def test_one_star_gives_the_same_as_many_and_stays_two_dimensional():
    flux, ivar = spectra()
    together = normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    for star in range(N_STARS):
        alone = normalize(WAVELENGTH, flux[star], ivar[star], MASK, regions=REGIONS)
        for one, many in zip(alone[:3], together[:3], strict=True):
            assert one.shape == (1, 240)
            np.testing.assert_allclose(one[0], many[star], rtol=1e-10)
        assert len(alone[3]) == 1
        assert len(alone[3][0]) == len(REGIONS)


def test_normalize_divides_and_keeps_the_signal_to_noise():
    flux, ivar = spectra()
    ivar[:, ~MASK] *= 0.5
    given_flux, given_ivar = flux.copy(), ivar.copy()
    normalized_flux, normalized_ivar, continuum, metadata = normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    expected, expected_metadata = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    known = ivar > 0
    np.testing.assert_array_equal(continuum, expected)
    np.testing.assert_allclose((normalized_flux * continuum)[known], flux[known], rtol=1e-14)
    np.testing.assert_allclose(normalized_ivar, ivar * continuum**2, rtol=1e-14)
    assert (normalized_flux[~known] == 1).all()
    assert [len(records) for records in metadata] == [len(records) for records in expected_metadata]
    np.testing.assert_array_equal(flux, given_flux)
    np.testing.assert_array_equal(ivar, given_ivar)


def test_single_precision_is_computed_in_double():
    flux, ivar = (values.astype(np.float32) for values in spectra())
    continuum, _ = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    assert continuum.dtype == np.float64
    np.testing.assert_allclose(continuum, reference(flux.astype(float), ivar.astype(float), MASK, REGIONS), rtol=1e-9)


@pytest.mark.parametrize("L", [1400, 3e4])
def test_nearly_dependent_sines_in_a_short_region_keep_their_digits(L):
    wavelength = np.linspace(15100.0, 15250.0, 150)
    rng = np.random.default_rng(2)
    truth = np.polynomial.Polynomial([2.0, 0.3, -0.1])((wavelength - 15175) / 75)
    ivar = rng.uniform(1, 1e4, 150)
    continuum, metadata = sines_and_cosines(wavelength, truth, ivar, np.arange(150), L=L)
    np.testing.assert_allclose(continuum[0], truth, rtol=2e-5)
    assert metadata[0][0]["condition_number"] > 1e3
    shifted, _ = sines_and_cosines(wavelength, 3 * truth, 7 * ivar, np.arange(150), L=L)
    np.testing.assert_allclose(shifted, 3 * continuum, rtol=1e-9)


def test_pixels_in_no_region_keep_the_fill_value_with_a_warning():
    flux, ivar = spectra()
    gap = (WAVELENGTH > 15690) & (WAVELENGTH < 16281)
    two = [REGIONS[0], REGIONS[2]]
    with pytest.warns(PixelsOutsideRegionsWarning, match=r"78 pixels of positive ivar lie in no region, in 4 of 4"):
        continuum, _ = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=two, fill_value=3.0)
    assert (continuum[:, gap] == 3).all()
    np.testing.assert_allclose(continuum[:, ~gap], reference(flux, ivar, MASK, two)[:, ~gap], rtol=1e-9)
    ivar[:, gap] = 0
    normalized, _, continuum, _ = normalize(WAVELENGTH, flux, ivar, MASK, regions=two, fill_value=3.0)
    assert (continuum[:, gap] == 3).all()
    assert (normalized[:, gap] == 1).all()


@pytest.mark.parametrize("fill_value", [np.nan, 0.0, -1.0])
def test_a_fill_value_that_cannot_divide_drops_the_pixels(fill_value):
    flux, ivar = spectra()
    with pytest.warns(PixelsOutsideRegionsWarning, match="normalize sets flux 1 and ivar 0 there"):
        normalized_flux, normalized_ivar, continuum, _ = normalize(
            WAVELENGTH, flux, ivar, MASK, regions=[(None, 16280)], fill_value=fill_value
        )
    outside = WAVELENGTH > 16280
    np.testing.assert_array_equal(continuum[:, outside], fill_value)
    assert (normalized_flux[:, outside] == 1).all()
    assert (normalized_ivar[:, outside] == 0).all()
    assert (normalized_ivar[:, ~outside] == ivar[:, ~outside] * continuum[:, ~outside] ** 2).all()


def test_open_ends_reach_the_ends_of_the_spectrum():
    flux, ivar = spectra()
    opened, metadata = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=[(None, 16000), (16000.1, None)])
    closed, _ = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=[(15100, 16000), (16000.1, 16900)])
    np.testing.assert_array_equal(opened, closed)
    assert metadata[0][0]["region"] == (15100.0, 16000.0)


def test_a_star_with_too_few_continuum_pixels_has_no_continuum_and_says_so():
    flux, ivar = spectra()
    inside = (WAVELENGTH >= 15090) & (WAVELENGTH <= 15690)
    ivar[2, np.flatnonzero(inside & MASK)[6:]] = 0
    ivar[2, np.flatnonzero(inside & MASK)[:6]] = 1
    with pytest.warns(ContinuumNotDeterminedWarning, match=r"15090.0 to 15690.0 .* 1 of 4 stars \(rows 2\)"):
        normalized_flux, normalized_ivar, continuum, metadata = normalize(
            WAVELENGTH, flux, ivar, MASK, regions=REGIONS, fill_value=0.5
        )
    record = metadata[2][0]
    assert record["status"] == ContinuumStatus.TOO_FEW_PIXELS
    assert record["n_pixels"] == 6
    assert "fewer continuum pixels" in record["message"]
    assert np.isnan(record["amplitudes"]).all()
    assert record["amplitudes"].shape == (7,)
    assert (continuum[2, inside] == 0.5).all()
    assert (normalized_flux[2, inside] == 1).all()
    assert (normalized_ivar[2, inside] == 0).all()
    others = np.delete(np.arange(N_STARS), 2)
    np.testing.assert_allclose(continuum[others], reference(flux, ivar, MASK, REGIONS)[others], rtol=1e-9)
    np.testing.assert_allclose(continuum[2, ~inside], reference(flux, ivar, MASK, REGIONS)[2, ~inside], rtol=1e-9)


def test_continuum_pixels_that_lie_too_close_together_do_not_determine_a_continuum():
    wavelength = np.concatenate([15000 + 1e-4 * np.arange(10), np.linspace(15100, 16900, 40)])
    ivar = np.ones((2, 50))
    ivar[1, 10:20] = ivar[1, 30:] = 0
    ivar[1, 20:30] = 1
    pixels = np.concatenate([np.arange(10), np.arange(30, 50)])
    with pytest.warns(ContinuumNotDeterminedWarning, match=r"rows 1"):
        _, normalized_ivar, _, metadata = normalize(wavelength, np.ones((2, 50)), ivar, pixels)
    assert [records[0]["status"] for records in metadata] == [ContinuumStatus.FITTED, ContinuumStatus.DEGENERATE]
    assert np.isinf(metadata[1][0]["condition_number"])
    assert (normalized_ivar[1] == 0).all()
    assert (normalized_ivar[0] > 0).all()


def test_a_region_without_any_data_is_told_by_its_status_alone():
    flux, ivar = spectra()
    ivar[1, WAVELENGTH > 16280] = 0
    flux[1, WAVELENGTH > 16280] = np.nan
    ivar[3] = 0
    normalized_flux, normalized_ivar, _, metadata = normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    assert metadata[1][2]["status"] == ContinuumStatus.TOO_FEW_PIXELS
    assert [record["status"] for record in metadata[3]] == [ContinuumStatus.TOO_FEW_PIXELS] * 3
    assert metadata[1][0]["status"] == ContinuumStatus.FITTED
    assert np.isfinite(normalized_flux).all()
    assert (normalized_flux[3] == 1).all()
    assert (normalized_ivar[3] == 0).all()


def test_a_continuum_that_is_not_positive_never_divides():
    flux, ivar = np.ones((3, 240)), np.ones((3, 240))
    flux[1] = (WAVELENGTH - 15800) / 1000
    flux[2] = 0
    ivar[1, :5] = 0
    with pytest.warns(ContinuumNotPositiveWarning, match=r"2 of 3 stars \(rows 1, 2\)"):
        normalized_flux, normalized_ivar, continuum, metadata = normalize(WAVELENGTH, flux, ivar, MASK, L=4000)
    lost = (continuum <= 0) & (ivar > 0)
    assert lost[1].any()
    assert not lost[1].all()
    assert [records[0]["n_not_positive"] for records in metadata] == [0, lost[1].sum(), 240]
    assert [records[0]["status"] for records in metadata] == [0, 1, 1]
    assert (normalized_flux[lost] == 1).all()
    assert (normalized_ivar[lost] == 0).all()
    kept = ~lost & (ivar > 0)
    np.testing.assert_allclose(normalized_flux[kept], (flux[kept] / continuum[kept]), rtol=1e-14)
    assert (normalized_ivar[kept] > 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_flux_that_is_not_finite_counts_as_ivar_zero_with_a_warning(bad):
    flux, ivar = spectra()
    ivar[2, [3, 10]] = 100.0
    flux[2, [3, 10]] = bad
    with pytest.warns(FluxNotFiniteWarning, match=r"at 2 pixels of positive ivar, in 1 of 4 stars \(rows 2\)"):
        normalized_flux, normalized_ivar, continuum, _ = normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)
    ivar[2, [3, 10]] = 0
    np.testing.assert_array_equal(continuum, sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=REGIONS)[0])
    assert (normalized_flux[2, [3, 10]] == 1).all()
    assert (normalized_ivar[2, [3, 10]] == 0).all()


def test_the_warning_points_at_the_line_that_called():
    flux, ivar = spectra()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        normalize(WAVELENGTH, flux, ivar, MASK, regions=REGIONS[:2])
    assert [w.filename for w in caught] == [__file__]
    assert issubclass(caught[0].category, BayesCannonWarning)


def call(**changes):
    flux, ivar = spectra()
    arguments = {"dispersion": WAVELENGTH, "flux": flux, "ivar": ivar, "continuum_pixels": MASK} | changes
    for function in (sines_and_cosines, normalize):
        with pytest.raises(ValueError, match=r".") as caught:
            function(**arguments)
    return str(caught.value)


def changed(values, index, value):
    values = np.array(values, dtype=float)
    values[index] = value
    return values


def test_bad_spectra_are_refused():
    flux, ivar = spectra()
    assert "shape (star, 240)" in call(flux=flux[:, :-1])
    assert "got (4, 240) and (3, 240)" in call(ivar=ivar[:3])
    assert "(1, 4, 240)" in call(flux=flux[None])
    assert "got nan at star 1, pixel 7" in call(ivar=changed(ivar, (1, 7), np.nan))
    assert "got -0.5 at star 2, pixel 0" in call(ivar=changed(ivar, (2, 0), -0.5))
    assert "got inf at star 0, pixel 1" in call(ivar=changed(ivar, (0, 1), np.inf))


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_order_of_the_pixels_does_not_matter(regions):
    flux, ivar = spectra()
    order = np.random.default_rng(1).permutation(240)
    expected, _ = sines_and_cosines(WAVELENGTH, flux, ivar, MASK, regions=regions)
    found, _ = sines_and_cosines(WAVELENGTH[order], flux[:, order], ivar[:, order], MASK[order], regions=regions)
    np.testing.assert_allclose(found, expected[:, order], rtol=1e-9)


def test_bad_dispersion_is_refused():
    assert "finite, got nan at pixel 3" in call(dispersion=changed(WAVELENGTH, 3, np.nan))
    assert "shape (pixel,), got shape (1, 240)" in call(dispersion=WAVELENGTH[None])


def test_bad_continuum_pixels_are_refused():
    assert "shape (240,), got shape (239,)" in call(continuum_pixels=MASK[:-1])
    assert "got 240" in call(continuum_pixels=[*range(10), 240])
    assert "got -1" in call(continuum_pixels=np.arange(-1, 30))
    assert "float64" in call(continuum_pixels=np.flatnonzero(MASK).astype(float))
    assert "float64" in call(continuum_pixels=[])
    assert "stored as integers" in call(continuum_pixels=MASK.astype(int))
    assert "shape (1, 240)" in call(continuum_pixels=MASK[None])
    assert "holds 0 continuum pixels" in call(continuum_pixels=np.zeros(240, dtype=bool))


def test_bad_functions_are_refused():
    for L in (0, -1400, np.nan, np.inf):
        assert "L must be positive" in call(L=L)
    for order in (0, -1, 2.0, True):
        assert "order must be a positive integer" in call(order=order)


def test_bad_regions_are_refused():
    assert "regions is empty" in call(regions=[])
    assert "pairs (start, end), got 15090 as region 0" in call(regions=[15090, 15822])
    assert "pairs" in call(regions=[(15090, 15500, 15822)])
    assert "must start before it ends, got 15822.0 to 15090.0 as region 1" in call(
        regions=[(16000, 16500), (15822, 15090)]
    )
    assert "must start before it ends" in call(regions=[(15500, 15500)])
    assert "must start before it ends" in call(regions=[(np.nan, 15500)])
    assert "holds no pixel" in call(regions=[(1000, 2000)])
    assert "regions 0 and 1 overlap" in call(regions=[(15090, 15900), (15800, 16971)])
    assert f"regions 0 and 1 overlap: both hold the pixel at {WAVELENGTH[100]}" in call(
        regions=[(15090, WAVELENGTH[100]), (WAVELENGTH[100], 16971)]
    )
    assert "region 1, 15850.0 to 15900.0, holds 4 continuum pixels, fewer than the 7" in call(
        regions=[(15090, 15800), (15850, 15900)]
    )


@pytest.mark.shared
def test_the_published_call_on_the_pixels_of_apogee():
    path = SHARED / "apogee_continuum_pixels.npz"
    if not path.exists():
        pytest.skip(f"the reference data {path.name} is not here")
    with np.load(path) as data:
        wavelength, pixels = data["apstar_wave_vacuum_angstrom"], data["annie_jump_cannon_apstar_index"]
    rng = np.random.default_rng(3)
    truth = 1000 + 200 * np.cos(wavelength / 300) + 50 * np.sin(wavelength / 150)
    regions = [[15090, 15822], [15823, 16451], [16452, 16971]]
    ivar = np.where(np.any([(wavelength > a + 60) & (wavelength < b - 20) for a, b in regions], axis=0), 0.01, 0.0)
    flux = truth + rng.normal(0, 10, (20, wavelength.size))
    ivar = np.broadcast_to(ivar, flux.shape)
    by_index, metadata = sines_and_cosines(wavelength, flux, ivar, pixels, L=1400, order=3, regions=regions)
    mask = np.zeros(wavelength.size, dtype=bool)
    mask[pixels] = True
    by_mask, _ = sines_and_cosines(wavelength, flux, ivar, mask, L=1400, order=3, regions=regions)
    np.testing.assert_array_equal(by_mask, by_index)
    known = ivar[0] > 0
    deviation = (by_index / truth - 1)[:, known]
    # Least squares spreads the noise of 1 % as sqrt(7 / number of continuum pixels), 0.19 % for 190 pixels.
    assert 0.5 * 0.0019 < deviation.std() < 1.3 * 0.0019
    assert all(record["condition_number"] < 1e4 for records in metadata for record in records)
