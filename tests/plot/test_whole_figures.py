"""Figures say what they show: all of the scatter, the unit if it is known, and no text beyond the edge."""

import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon import plot
from bayes_cannon.plot._matplotlib import with_gaps
from bayes_cannon.plot.star import with_error
from bayes_cannon.scatter.selection import ScatterPath

N_STARS, N_PIXELS = 300, 60
NAMES = ("TEFF", "LOGG", "FE_H", "ALPHA_FE", "VMACRO")
UNITS = {"TEFF": "K", "LOGG": "dex", "FE_H": "dex", "ALPHA_FE": "dex", "VMACRO": "km/s"}


@pytest.fixture(scope="module")
def simulation():
    """Labels, flux, ivar, and the scatter's standard deviation at each pixel, most of which pixels share."""
    rng = np.random.default_rng(0)
    labels = np.c_[rng.uniform(4000, 5300, N_STARS), rng.normal(size=(N_STARS, 4))]
    u = rng.normal(0, 0.03, (N_PIXELS, 2))
    scaled = (labels - labels.mean(axis=0)) / labels.std(axis=0)
    flux = 1 + scaled @ rng.normal(0, 0.03, (5, N_PIXELS)) + rng.normal(size=(N_STARS, 2)) @ u.T
    flux += rng.normal(0, np.hypot(0.01, 0.005), flux.shape)
    return labels, flux, np.full(flux.shape, 0.005**-2.0), np.sqrt(0.01**2 + (u**2).sum(axis=1))


@pytest.fixture(
    scope="module", params=[tc.scatter.LowRank(2), tc.scatter.Full(), None], ids=["low rank", "full", "none"]
)
def model(request, simulation):
    labels, flux, ivar, _ = simulation
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
    model = tc.CannonModel(
        labels, flux, ivar, vectorizer, dispersion=np.linspace(400, 2500, N_PIXELS), label_units=UNITS,
        scatter=request.param,
    )  # fmt: skip
    model.train()
    return model


def test_the_scatter_is_all_of_it(model, simulation, tmp_path):
    *_, s = simulation
    drawn = plot.scatter(model).axes[0].lines[0].get_ydata()
    # The full covariance is shrunk. Without what pixels share it would be a third.
    np.testing.assert_allclose(drawn, s, rtol=0.3)
    model.write(tmp_path / "a.model")
    without_spectra = plot.scatter(tc.CannonModel.read(tmp_path / "a.model")).axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(without_spectra, drawn, rtol=1e-6)


def test_bands_of_a_spectrum_are_as_wide_as_its_residuals(model, simulation):
    labels, flux, ivar, s = simulation
    rms = np.std(flux - model(labels), axis=0)
    for given, expected in ((ivar[0], rms), (None, s)):
        top, bottom = plot.spectrum(model, labels[0], flux[0], given).axes
        np.testing.assert_allclose(_half_width(bottom), expected, rtol=0.3)
    np.testing.assert_allclose(_half_width(top), s, rtol=0.3)


def _half_width(axes):
    """Half of the width of the widest band at each pixel."""
    positions = axes.lines[-1].get_xdata()
    bands = {text: band for band, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    vertices = bands.get("noise and scatter", bands.get("scatter $s$")).get_paths()[0].vertices
    return np.array([np.ptp(vertices[np.isclose(vertices[:, 0], x), 1]) / 2 for x in positions])


def test_no_unit_is_stated_that_is_not_known(model):
    figures = [plot.scatter(model), plot.theta(model, 0), plot.spectrum(model, model.training_set_labels[0])]
    figures += [plot.factors(model)] if model.factors is not None else []
    for figure in figures:
        assert "Wavelength" in [axes.get_xlabel() for axes in figure.axes]


@pytest.mark.parametrize(
    ("unit", "shown"), [("nm", "Wavelength (nm)"), ("Angstrom", "Wavelength (Å)"), (None, "Wavelength")]
)
def test_a_unit_that_is_known_is_stated(unit, shown):
    class Known:
        theta, s2, dispersion, dispersion_unit = np.ones((5, 2)), np.ones(5), np.arange(5.0), unit

    assert plot.scatter(Known()).axes[0].get_xlabel() == shown
    assert plot.theta(Known()).axes[-1].get_xlabel() == shown
    assert plot.scatter(Known(), dispersion=np.arange(5.0)).axes[0].get_xlabel() == "Wavelength"


@pytest.mark.parametrize(
    ("medium", "frame", "shown"),
    [
        ("vacuum", "rest", "Rest wavelength in vacuum (µm)"), ("air", None, "Wavelength in air (µm)"),
        (None, "rest", "Rest wavelength (µm)"), (None, "barycentric", "Wavelength (µm)"),
    ],
)  # fmt: skip
def test_medium_and_frame_are_stated_where_the_model_knows_them(medium, frame, shown):
    known = SimpleNamespace(
        s2=np.ones(5), theta=np.ones((5, 2)), dispersion=np.arange(5.0), dispersion_unit="um",
        provenance={"wavelength_medium": medium, "wavelength_frame": frame},
    )  # fmt: skip
    assert plot.scatter(known).axes[0].get_xlabel() == shown
    assert plot.scatter(known, dispersion=np.arange(5.0)).axes[0].get_xlabel() == "Wavelength"


def test_text_stays_within_the_figure(model):
    labels, flux, ivar = model.training_set_labels, model.training_set_flux, model.training_set_ivar
    cov = np.diag([4.0, 0.004, 0.003, 0.003, 0.13]) ** 2
    candidates = (None, tc.scatter.LowRank(1), tc.scatter.LowRank(2, heavy_tails=True), tc.scatter.Full(0.1, True))
    scores = np.random.default_rng(0).normal(size=(4, 20))
    path = ScatterPath(candidates, scores, np.full(4, np.inf), np.ones(4, bool))
    figures = {
        "spectrum": plot.spectrum(model, labels[0], flux[0], ivar[0], cov=cov),
        "theta": plot.theta(model),
        "one panel": plot.theta(model, common_axis=True),
        "scatter": plot.scatter({"a training": model, "another": model.s2}),
        "scatter_path": plot.scatter_path(path),
        "one_to_one": plot.one_to_one(model, labels, np.broadcast_to(cov, (len(labels), 5, 5))),
        "label_space": plot.label_space(labels, label_names=NAMES),
    }
    if model.factors is not None:
        figures["factors"] = plot.factors(model)
    for name, figure in figures.items():
        _assert_inside(name, figure)
    title = figures["spectrum"].axes[0].get_title()
    assert "± 0.0040 dex" in title
    assert "± 0.00 " not in title
    assert figures["scatter_path"].axes[0].get_position().width > 0.5


def _assert_inside(name, figure):
    figure.draw_without_rendering()
    own = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)]
    for text in own + [text for legend in figure.legends for text in legend.texts]:
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
            assert inside, (name, text.get_text(), box, figure.bbox)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4567.8, 20.3, "4568 ± 20"), (0.1234, 0.00432, "0.1234 ± 0.0043"), (-0.1, 0.05, "−0.100 ± 0.050"),
        (4567.8, np.nan, "4568"), (0.00123, np.nan, "0.001230"), (2.5, np.nan, "2.50"), (2.5, 0.0, "2.50"),
        (0.0, np.nan, "0.00"), (1.0, 0.0999, "1.00 ± 0.10"), (1e5, 2345.0, "100000 ± 2345"),
    ],
)  # fmt: skip
def test_errors_have_two_digits(value, error, text):
    assert with_error(value, error) == text


def test_orders_of_an_echelle_spectrograph_are_not_joined():
    orders = [np.linspace(6312, 6418, 30), np.linspace(6201, 6320, 30), np.linspace(6095, 6205, 30)]
    x = np.concatenate(orders)
    position, y = with_gaps(x, np.arange(90.0))
    assert np.flatnonzero(np.isnan(y)).tolist() == [30, 61]
    np.testing.assert_array_equal(position[~np.isnan(y)], x)
    backwards, _ = with_gaps(x[::-1], np.arange(90.0))
    np.testing.assert_array_equal(backwards, position[::-1])


def test_pixels_without_order_are_drawn_by_wavelength():
    x = np.random.default_rng(0).permutation(40).astype(float)
    position, y = with_gaps(x, 2 * x)
    np.testing.assert_array_equal(position, np.arange(40))
    np.testing.assert_array_equal(y, 2 * position)


def test_repeated_wavelengths_are_no_gap():
    x = np.repeat(np.arange(10.0), 4)
    assert with_gaps(x, x)[0].size == 40


PYPLOT = """
import matplotlib; matplotlib.use("agg")
import numpy as np, matplotlib.pyplot as plt
from bayes_cannon import plot
figure = plot.scatter(np.ones(3))
assert plt.gcf() is figure and len(plt.get_fignums()) == 1
assert plot.theta(np.ones((3, 2))) is plt.gcf()
assert figure._repr_png_()[:4] == b"\\x89PNG"
plt.close("all")
axes = plt.figure().add_subplot()
assert plot.scatter(np.ones(3), ax=axes) is axes.figure and len(plt.get_fignums()) == 1
"""


def test_pyplot_shows_the_figures_where_it_has_been_imported():
    subprocess.run([sys.executable, "-c", PYPLOT], check=True, timeout=60)


def test_keywords_of_the_original_figures(model, simulation):
    labels, *_ = simulation
    figure = plot.theta(model, [0, 1], None, True, True, False, [f"L_{k}" for k in range(5)], (500, 900),
                        plot_kwds={"c": "r", "linewidth": 2})  # fmt: skip
    (line,) = figure.axes[0].get_lines()
    assert (line.get_color(), line.get_linewidth()) == ("r", 2)
    assert plot.scatter(model, plot_kwds={"c": "k", "lw": 3}).axes[0].lines[0].get_color() == "k"
    cov = np.broadcast_to(np.eye(5), (len(labels), 5, 5))
    words = {
        "scatter_kwds": {"s": 4, "c": "k", "alpha": 0.5, "edgecolors": "none"},
        "errorbar_kwds": {"fmt": None, "ecolor": "r", "alpha": 0.3, "capsize": 0, "elinewidth": 2},
    }
    figure = plot.one_to_one(model, labels, cov, None, True, **words)
    points = figure.axes[0].get_lines()[0]
    assert (points.get_color(), points.get_markersize()) == ("k", 2)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_color(), [mpl.colors.to_rgba("r", 0.3)])
    with pytest.raises(ValueError, match="all stars one size and colour"):
        plot.one_to_one(model, labels, scatter_kwds={"s": np.ones(len(labels))})


def test_all_terms_in_one_panel(model):
    (axes,) = plot.theta(model, common_axis=True, label_terms=["TEFF", "FE_H"]).axes
    for line, term in zip(axes.lines, (1, 3), strict=True):
        np.testing.assert_allclose(line.get_ydata(), model.theta[:, term] / np.abs(model.theta[:, term]).max())
        assert line.get_label() == {1: "Teff", 3: "[Fe/H]"}[term]
    with pytest.raises(ValueError, match="draws a single training, not a, b"):
        plot.theta({"a": model, "b": model.theta}, common_axis=True)
