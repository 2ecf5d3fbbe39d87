"""Preparation of spectra: its steps, their order, and that the text of it means the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.continuum import normalize
from bayes_cannon.core.running_continuum import normalize_by_mean
from bayes_cannon.io.preparation import PREPARED, Preparation, constant_noise
from bayes_cannon.io.recipe import parse_recipe
from bayes_cannon.io.spectra import Spectra

MINIMAL = {"name": "x", "model": {"label_names": ["A"]}, "data": {"spectra": "s.nc"}}


@pytest.fixture
def stars() -> Spectra:
    rng = np.random.default_rng(3)
    wavelength = np.linspace(4000, 4400, 80)
    flux = 3 + 0.001 * (wavelength - 4000) + rng.normal(0, 0.01, (4, 80))
    ivar = np.full((4, 80), 1e4)
    flux[1, 70], ivar[1, 70] = np.nan, 0
    return Spectra(flux, ivar, wavelength)


def _of(folder: Path = Path(), **sections: dict) -> Preparation:
    data = MINIMAL["data"] | sections.pop("data", {})
    return Preparation.of_recipe(parse_recipe(MINIMAL | {"data": data} | sections, folder))


def test_nothing_asked_nothing_done(stars):
    assert _of().apply(stars) is stars


def test_all_steps_in_their_order(stars):
    keywords = {"L": 900.0, "order": 2, "regions": [[4000.0, 4200.0], [4200.1, 4400.0]]}
    preparation = _of(continuum={"every": 2, **keywords}, data={"wavelength_range": [4100.0, 4300.0], "log_flux": True})
    prepared = preparation.apply(stars)
    used = (stars.wavelength >= 4100) & (stars.wavelength <= 4300)
    flux, ivar, _, _ = normalize(stars.wavelength, stars.flux, stars.ivar, np.arange(0, 80, 2), **keywords)
    assert_array_equal(prepared.wavelength, stars.wavelength[used])
    assert_allclose(prepared.flux, np.log(flux[:, used]), rtol=1e-12)
    assert_allclose(prepared.ivar, (ivar * flux**2)[:, used], rtol=1e-12)


def test_running_mean_and_median(stars):
    running = _of(continuum={"running_mean": 60.0}).apply(stars)
    flux, ivar, _ = normalize_by_mean(stars.wavelength, stars.flux, stars.ivar, 60.0)
    assert_array_equal(running.flux, flux)
    assert_array_equal(running.ivar, ivar)
    median = _of(data={"divide_by_median": True, "wavelength_range": [4000.0, 4100.0]})
    prepared = Preparation.from_text(median.to_text()).apply(stars)
    used = stars.wavelength <= 4100
    scale = np.nanmedian(stars.flux, axis=1)[:, None]
    assert_allclose(prepared.flux, (stars.flux / scale)[:, used], rtol=1e-12)
    assert_allclose(prepared.ivar, (stars.ivar * scale**2)[:, used], rtol=1e-12)
    # A text of before there was a median.
    assert Preparation.from_text('{"continuum": null, "wavelength_range": null, "log_flux": true}').log_flux


def test_constant_noise_is_the_last_step(stars):
    """One noise along each spectrum, of what the model sees; unusable pixels stay so."""
    uneven = replace(stars, ivar=stars.ivar * np.linspace(0.5, 2.0, 80))
    preparation = _of(data={"log_flux": True, "noise": "constant", "wavelength_range": [4000.0, 4250.0]})
    prepared = Preparation.from_text(preparation.to_text()).apply(uneven)
    quoted = _of(data={"log_flux": True, "wavelength_range": [4000.0, 4250.0]}).apply(uneven)
    assert_array_equal(prepared.flux, quoted.flux)
    assert_array_equal(prepared.ivar == 0, quoted.ivar == 0)
    for row, of_quoted in zip(prepared.ivar, quoted.ivar, strict=True):
        assert_array_equal(row[row > 0], np.median(of_quoted[of_quoted > 0]))
    nothing = replace(stars, ivar=np.zeros((4, 80)))
    assert_array_equal(constant_noise(nothing).ivar, nothing.ivar)


def test_spectra_that_were_prepared_before_there_was_a_noise(stars):
    """What an earlier version wrote of its preparation means the same."""
    text = '{"continuum": null, "wavelength_range": null, "log_flux": true, "divide_by_median": false}'
    written = replace(stars, attrs={PREPARED: text})
    assert Preparation(log_flux=True).apply(written) is written
    with pytest.raises(ValueError, match="were prepared before they were written"):
        Preparation(log_flux=True, noise="constant").apply(written)


def test_text_means_the_same(stars):
    preparation = _of(
        continuum={"pixels": [*range(0, 80, 3)], "regions": [[-np.inf, 4200.0], [4200.1, np.inf]], "order": 1},
        data={"wavelength_range": [-np.inf, 4300.0], "log_flux": True},
    )
    again = Preparation.from_text(preparation.to_text())
    first, second = preparation.apply(stars), again.apply(stars)
    assert_array_equal(first.flux, second.flux)
    assert_array_equal(first.ivar, second.ivar)
    assert again.to_text() == preparation.to_text()


def test_logarithm_keeps_bad_pixels_out(stars):
    flux, ivar = np.array([[np.e, 0.0, -1.0, np.nan, 2.0]]), np.array([[4.0, 1.0, 1.0, 0.0, 0.0]])
    prepared = _of(data={"log_flux": True}).apply(Spectra(flux, ivar))
    assert_allclose(prepared.flux, [[1, 0, 0, 0, 0]])
    assert_allclose(prepared.ivar, [[4 * np.e**2, 0, 0, 0, 0]])


@pytest.mark.parametrize("kind", ["indices.txt", "mask.txt", "indices.npy", "mask.npy"])
def test_continuum_pixels_from_a_file(kind, stars, tmp_path):
    pixels = np.arange(1, 80, 4)
    mask = np.isin(np.arange(80), pixels)
    values = mask if kind.startswith("mask") else pixels
    if kind.endswith(".npy"):
        np.save(tmp_path / kind, values)
    else:
        np.savetxt(tmp_path / kind, values, fmt="%d")
    from_file = _of(tmp_path, continuum={"pixels": kind, "order": 1})
    assert from_file == _of(continuum={"pixels": pixels.tolist(), "order": 1})
    assert from_file.apply(stars).n_pixels == 80


@pytest.mark.parametrize("content", ["", "one two", "1.5 2", "nan 1", "-3 4"])
def test_bad_file_of_continuum_pixels(content, tmp_path):
    (tmp_path / "pixels.txt").write_text(content)
    with pytest.raises(ValueError, match=r"pixels\.txt"):
        _of(tmp_path, continuum={"pixels": "pixels.txt"})


def test_missing_file_of_continuum_pixels(tmp_path):
    with pytest.raises(FileNotFoundError, match="continuum pixels"):
        _of(tmp_path, continuum={"pixels": "no.txt"})


def test_steps_that_need_wavelengths_say_so(stars):
    bare = Spectra(stars.flux, stars.ivar)
    with pytest.raises(ValueError, match="continuum needs the wavelengths"):
        _of(continuum={"every": 2}).apply(bare)
    with pytest.raises(ValueError, match="wavelength_range needs the wavelengths"):
        _of(data={"wavelength_range": [1.0, 2.0]}).apply(bare)
    with pytest.raises(ValueError, match=r"no pixel lies in .*4000\.0 to 4400\.0"):
        _of(data={"wavelength_range": [1.0, 2.0]}).apply(stars)
