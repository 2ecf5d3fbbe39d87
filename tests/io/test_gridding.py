from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from scipy.linalg import block_diag

import bayes_cannon as tc
from bayes_cannon.core.grids import Grid, grid_of
from bayes_cannon.core.resampling import resample
from bayes_cannon.core.wavelengths import LIGHT, vacuum_to_air
from bayes_cannon.io.gridding import find_grid, noise_covariance, on_grid
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.readers.survey_spectra import DecodedSegment, DecodedSpectra, Segment, SurveySpectra
from bayes_cannon.io.spectra import read_spectra_file as read_spectra
from bayes_cannon.io.spectra import write_spectra


def arm(first=5000.0, n_pixels=60, *, seed=0, n_stars=3, step=0.5, turned=False, **more):
    rng = np.random.default_rng(seed)
    flux, ivar = rng.normal(1, 0.1, (n_stars, n_pixels)), rng.uniform(50, 100, (n_stars, n_pixels))
    ivar[:, 7] = 0
    order = slice(None, None, -1) if turned else slice(None)
    wavelength = first + step * np.arange(n_pixels)
    return DecodedSegment(wavelength[order], np.where(ivar > 0, flux, np.nan)[:, order], ivar[:, order], **more)


def decoded(*arms, doppler=None, medium=None, **source):
    n_stars = len(arms[0].flux)
    segments = [Segment(one.wavelength, one.flux, one.ivar, name=one.name) for one in arms]
    source = {
        "reader": "test", "segments": segments, "identifiers": {"ID": [f"star {n}" for n in range(n_stars)]},
        "noise_kind": "ivar", "velocity": np.zeros(n_stars), "which": ["combined"] * n_stars, "medium": medium,
    } | source  # fmt: skip
    doppler = np.ones(n_stars) if doppler is None else np.asarray(doppler)
    return DecodedSpectra(SurveySpectra(**source), arms, doppler, medium, {"mask_bits": "none"})


def test_own_pixels_stay_as_they_are():
    one = arm()
    spectra = on_grid(decoded(one), grid_of(one.wavelength))
    np.testing.assert_array_equal(spectra.flux, np.where(one.ivar > 0, one.flux, 0))
    np.testing.assert_allclose(spectra.ivar, one.ivar, rtol=1e-15)
    assert spectra.noise_correlation is None
    assert spectra.ids.tolist() == ["star 0", "star 1", "star 2"]


def test_doppler_is_the_one_interpolation():
    one, velocity = arm(turned=True), np.array([-40.0, 0.0, 90.0])
    spectra = on_grid(decoded(one, doppler=1 + velocity / LIGHT), grid_of((5004, 5024, 0.4)))
    flux, ivar = resample(one.flux, one.ivar, one.wavelength, (5004, 5024, 0.4), velocity=velocity)
    np.testing.assert_array_equal(spectra.flux, flux)
    np.testing.assert_array_equal(spectra.ivar, ivar)
    np.testing.assert_allclose(spectra.labels["velocity_used"], velocity, atol=1e-9)


def test_arms_are_averaged_by_ivar_and_gaps_have_none():
    blue, red, far = arm(name="b"), arm(5020.0, seed=1, name="r", turned=True), arm(5100.0, seed=2, name="z")
    grid = grid_of((4990, 5140, 0.8))
    spectra = on_grid(decoded(blue, red, far), grid)
    parts = [resample(one.flux, one.ivar, one.wavelength, grid) for one in (blue, red, far)]
    ivar = sum(part[1] for part in parts)
    flux = sum(part[0] * part[1] for part in parts) / np.where(ivar > 0, ivar, 1)
    np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-15)
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-13)
    both = (parts[0][1] > 0) & (parts[1][1] > 0)
    assert both.sum() > 20
    gap = (grid.wavelength > 5051) & (grid.wavelength < 5099)
    assert not spectra.ivar[:, gap].any()


def test_nothing_is_lost():
    """A spectrum without a usable pixel stays; columns of numbers are labels, texts identifiers, others are named."""
    one = arm()
    one.ivar[1] = 0
    columns = {
        "SNR": np.array([10, 20, 30]), "GOOD": np.array([True, False, True]), "FIELD": np.array(["a", "b", "c"]),
        "SOURCE": np.array([2**60 + 1, 2, 3]), "MAGS": np.ones((3, 5)), "flux": np.ones(3),
        "G": np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]),
    }  # fmt: skip
    spectra = on_grid(
        decoded(one, columns=columns, units={"SNR": "", "G": "mag"}, flux_unit="Jy"), grid_of((5001, 5020, 1))
    )
    assert spectra.n_stars == 3
    assert spectra.ivar.any(axis=1).tolist() == [True, False, True]
    assert list(spectra.labels) == ["SNR", "GOOD", "G", "velocity_used"]
    np.testing.assert_array_equal(spectra.labels["G"], [1, np.nan, 3])
    np.testing.assert_array_equal(spectra.labels["GOOD"], [1, 0, 1])
    assert spectra.identifiers["SOURCE"][0] == str(2**60 + 1)
    assert spectra.identifiers["FIELD"].tolist() == ["a", "b", "c"]
    assert spectra.identifiers["which"].tolist() == ["combined"] * 3
    assert spectra.units == {
        "SNR": "", "G": "mag", "wavelength": "Angstrom", "velocity_used": "km/s", "flux": "Jy"
    }  # fmt: skip
    assert spectra.attrs["columns_left_out"] == "MAGS, flux"
    assert spectra.attrs["mask_bits"] == "none"
    assert spectra.attrs["reader"] == "test"


@pytest.mark.parametrize(
    ("spectra_in", "grid_in", "result", "said"),
    [
        ("air", "vacuum", "vacuum", "converted from air"), ("vacuum", "air", "air", "converted from vacuum"),
        ("air", "air", "air", "as that of the spectra"), (None, "vacuum", None, "nothing was converted"),
        ("air", None, "air", "taken as that of the spectra, air"), (None, None, None, "not known either"),
    ],
)  # fmt: skip
def test_medium(spectra_in, grid_in, result, said):
    velocity, line = 50.0, 5015.0
    wavelength = line * (1 + velocity / LIGHT) + 0.05 * np.arange(-200, 200)
    centre = line * (1 + velocity / LIGHT)
    flux = 1 - 0.5 * np.exp(-0.5 * ((wavelength - centre) / 0.4) ** 2)[None]
    at = vacuum_to_air(wavelength) if spectra_in == "air" and grid_in == "vacuum" else wavelength
    one = DecodedSegment(at, flux, np.ones_like(flux))
    plain = grid_of((5012, 5018, 0.05))
    grid = Grid(plain.wavelength, plain.edges, medium=grid_in)
    spectra = on_grid(decoded(one, doppler=[1 + velocity / LIGHT], medium=spectra_in), grid)
    depth = np.where(spectra.ivar[0] > 0, 1 - spectra.flux[0], 0)
    wanted = vacuum_to_air(line) if (spectra_in, grid_in) == ("vacuum", "air") else line
    assert depth @ grid.wavelength / depth.sum() == pytest.approx(wanted, abs=1e-3)
    assert spectra.attrs.get("wavelength_medium") == result
    assert said in spectra.attrs["medium_of_grid"]


@pytest.mark.parametrize(("said", "kept"), [("rest", "rest"), ("barycentric", "barycentric"), ("not known", None)])
def test_frame_of_the_wavelengths(said, kept):
    one = arm()
    given = replace(decoded(one), decisions={"frame": said})
    assert on_grid(given, grid_of(one.wavelength)).attrs.get("wavelength_frame") == kept


def given_covariance(n_pixels=60, n_stars=3, seed=5):
    x = np.arange(n_pixels)
    base = np.exp(-0.5 * (np.subtract.outer(x, x) / 2) ** 2) + 0.1 * np.eye(n_pixels)
    return base * np.linspace(0.01, 0.03, n_stars)[:, None, None]


@pytest.mark.parametrize("with_given", [False, True])
def test_correlation(with_given):
    """Against the dense product for each spectrum: both arms in one matrix, then the average by ivar."""
    covariance = given_covariance() if with_given else None
    blue, red = arm(covariance=covariance, name="b"), arm(5020.0, seed=1, name="r")
    grid, velocity = grid_of((5002, 5045, 0.7)), np.array([0.0, 30.0, 0.0])
    one = decoded(blue, red, doppler=1 + velocity / LIGHT)
    spectra = on_grid(one, grid, covariance=True)
    expected = np.zeros((grid.n_pixels, grid.n_pixels))
    for n in range(3):
        operators, noises, weights = [], [], []
        for part in (blue, red):
            good = part.ivar[n] > 0
            unit = np.array([
                resample(row, part.ivar[n], part.wavelength, grid, velocity=velocity[n])[0] for row in np.eye(60)
            ]).T  # fmt: skip
            noise = np.diag(1 / np.where(good, part.ivar[n], np.inf))
            noise = noise if part.covariance is None else np.where(np.outer(good, good), part.covariance[n], 0)
            variance = np.diag(unit @ noise @ unit.T)
            operators.append(unit)
            noises.append(noise)
            weights.append(np.where(variance > 0, 1 / np.where(variance > 0, variance, 1), 0))
        total = sum(weights)
        operator = np.hstack([
            (weight / np.where(total > 0, total, 1))[:, None] * unit
            for weight, unit in zip(weights, operators, strict=True)
        ])  # fmt: skip
        result = operator @ block_diag(*noises) @ operator.T
        usable = total > 0
        np.testing.assert_allclose(spectra.ivar[n][usable], 1 / np.diag(result)[usable], rtol=1e-10)
        root = np.where(usable, np.sqrt(np.where(usable, np.diag(result), 1)), 1)
        expected += (result / np.outer(root, root) + np.diag(~usable)) / 3
    np.testing.assert_allclose(spectra.noise_correlation, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(on_grid(one, grid).ivar, spectra.ivar)
    np.testing.assert_array_equal(on_grid(one, grid).flux, spectra.flux)


def test_covariance_for_the_scatter(tmp_path):
    """`scatter.Given` takes it, also where no spectrum has a pixel; it is stored, and follows a choice of pixels."""
    spectra = on_grid(decoded(arm(covariance=given_covariance())), grid_of((5001, 5032, 0.6)), covariance=True)
    assert not spectra.ivar[:, -2:].any()
    covariance = noise_covariance(spectra)
    assert tc.scatter.Given(covariance).covariance.shape == (spectra.n_pixels,) * 2
    usable = (spectra.ivar > 0).all(axis=0)
    np.testing.assert_allclose(np.diag(covariance)[usable], np.median(1 / spectra.ivar[:, usable], axis=0), rtol=1e-12)
    for name in ("a.nc", "a.npz"):
        write_spectra(tmp_path / name, spectra)
        np.testing.assert_array_equal(read_spectra(tmp_path / name).noise_correlation, spectra.noise_correlation)
    preparation = Preparation(wavelength_range=(5005.0, 5010.0))
    chosen = preparation.apply(spectra)
    some = (spectra.wavelength >= 5005) & (spectra.wavelength <= 5010)
    np.testing.assert_array_equal(chosen.noise_correlation, spectra.noise_correlation[np.ix_(some, some)])
    with pytest.raises(ValueError, match=r"noise_correlation: read them with covariance=True"):
        noise_covariance(on_grid(decoded(arm()), grid_of((5001, 5032, 0.6))))


def test_refused():
    with pytest.raises(ValueError, match=r"velocity of 'star 1' \(test, combined\) is not known.*velocity=\"none\""):
        on_grid(decoded(arm(), doppler=[1, np.nan, 1]), grid_of((5001, 5020, 1)))
    one = arm(name="b")
    one.flux[2, 9] = np.inf
    with pytest.raises(ValueError, match=r"flux of 'b' is inf at pixel 9 \(5004\.500 Angstrom\) of 'star 2'"):
        on_grid(decoded(one), grid_of((5001, 5020, 1)))
    one = arm()
    one.ivar[0, 3] = -1
    with pytest.raises(ValueError, match=r"ivar is -1\.0 at pixel 3"):
        on_grid(decoded(one), grid_of((5001, 5020, 1)))


def test_grids_of_files(tmp_path, training):
    assert find_grid("apogee") is grid_of("apogee")
    assert find_grid((5000, 5010, 1)).n_pixels == 11
    wavelength = 5000 + 0.5 * np.arange(30)
    np.savetxt(tmp_path / "a.txt", np.column_stack([wavelength, wavelength]))
    np.savetxt(tmp_path / "a.csv", np.column_stack([wavelength, wavelength]), delimiter=",", header="wavelength, other")
    in_nm = tc.io.Spectra(
        np.ones((1, 30)), np.ones((1, 30)), wavelength / 10, units={"wavelength": str(u.nm)},
        attrs={"wavelength_medium": "air"},
    )  # fmt: skip
    for name in ("a.nc", "a.npz"):
        write_spectra(tmp_path / name, in_nm)
    for name in ("a.txt", "a.csv", "a.nc", "a.npz"):
        grid = find_grid(str(tmp_path / name))
        np.testing.assert_allclose(grid.wavelength, wavelength, rtol=1e-14)
        assert (grid.name, grid.medium) == (name, None if name in ("a.txt", "a.csv") else "air")
    training.model().write(tmp_path / "a.model", include_training_set_spectra=True)
    np.testing.assert_array_equal(find_grid(tmp_path / "a.model").wavelength, training.dispersion)


def test_refused_files(tmp_path, training):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt"):
        find_grid(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="Did you mean 'apogee'"):
        find_grid("apogge")
    (tmp_path / "bad.txt").write_text("5000\nhello\n")
    with pytest.raises(ValueError, match=r"bad\.txt.*hello.*Angstrom"):
        find_grid(tmp_path / "bad.txt")
    (tmp_path / "falls.txt").write_text("5001\n5000\n")
    with pytest.raises(ValueError, match=r"falls\.txt.*rise throughout"):
        find_grid(tmp_path / "falls.txt")
    model = training.model(dispersion=None)
    model.write(tmp_path / "a.model", include_training_set_spectra=True)
    with pytest.raises(ValueError, match=r"a\.model holds no wavelengths"):
        find_grid(tmp_path / "a.model")
