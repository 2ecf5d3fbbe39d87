"""Every figure has the width of a column or a page of a journal, and can be drawn into the user's own axes."""

import inspect

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon import plot
from bayes_cannon.scatter.selection import ScatterPath

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

NAMES = ("TEFF", "LOGG", "FE_H")
CHIPS = np.concatenate([np.linspace(15150, 15800, 60), np.linspace(15950, 16430, 50), np.linspace(16600, 16950, 40)])


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    labels = rng.normal([5000, 2.5, 0], [300, 0.5, 0.2], (150, 3))
    coefficients = rng.normal(0, 0.02, (3, len(CHIPS)))
    flux = 1 + (labels - labels.mean(0)) / labels.std(0) @ coefficients
    # The second factor of the truth is the stronger one.
    factors = 0.02 * np.array([0.4 * np.sin(CHIPS), np.cos(CHIPS)])
    flux += rng.normal(size=(150, 2)) @ factors + 0.003 * rng.normal(size=flux.shape)
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
    model = tc.CannonModel(
        labels, flux, np.full(flux.shape, 1e5), vectorizer, dispersion=CHIPS, dispersion_unit="Angstrom",
        scatter=tc.scatter.LowRank(2),
    )  # fmt: skip
    model.train()
    return model


def _figures(model):
    """Each figure as a function of its keywords, and its number of panels."""
    rng = np.random.default_rng(1)
    labels, flux, ivar = model.training_set_labels, model.training_set_flux, model.training_set_ivar
    scores = np.array([[0.0], [5.0]]) + rng.normal(0, 0.1, (2, 50))
    path = ScatterPath((None, tc.scatter.LowRank(3)), scores, np.full(2, np.inf), np.ones(2, bool))
    pull = rng.normal(size=(150, 3))
    errors = {"photon": np.ones((5, 3)), "scatter": np.full((5, 3), 2.0)}
    return {
        "theta": (lambda **k: plot.theta(model, **k), 4),
        "scatter": (lambda **k: plot.scatter(model, **k), 1),
        "one_to_one": (lambda **k: plot.one_to_one(model, labels, **k), 6),
        "spectrum": (lambda **k: plot.spectrum(model, labels[0], flux[0], ivar[0], **k), 6),
        "factors": (lambda **k: plot.factors(model, **k), 3),
        "scatter_path": (lambda **k: plot.scatter_path(path, **k), 1),
        "label_space": (lambda **k: plot.label_space(labels, [0, 1], NAMES, **k), 6),
        "pulls": (lambda **k: plot.pulls(pull, NAMES, **k), 3),
        "coverage": (lambda **k: plot.coverage(pull, labels[:, :2], NAMES, NAMES[:2], **k), 3),
        "error_sources": (lambda **k: plot.error_sources(errors, NAMES, **k), 1),
    }


def test_every_figure_is_tested(model):
    assert {*_figures(model), "theta_posterior"} == set(plot.__all__)
    for name in plot.__all__:
        parameters = inspect.signature(getattr(plot, name)).parameters
        assert "size" in parameters
        assert ("ax" in parameters) != ("axes" in parameters)


def test_width_is_that_of_a_column_or_page(model):
    for name, (draw, _) in _figures(model).items():
        page, column = draw(), draw(size="column")
        assert page.get_figwidth() == 7.1, name
        assert column.get_figwidth() == 3.5, name
        assert max(page.get_figheight(), column.get_figheight()) < 9.5, name
        assert column.axes[0].xaxis.label.get_fontsize() == pytest.approx(0.8 * page.axes[0].xaxis.label.get_fontsize())
        for figure in (page, column):
            figure.draw_without_rendering()
            for axes in figure.axes:
                for text in (axes.title, axes.xaxis.label, *axes.texts):
                    box = text.get_window_extent()
                    if text.get_text():
                        assert box.x0 > -2, (name, text.get_text())
                        assert box.x1 < figure.bbox.x1 + 2, (name, text.get_text())
        with pytest.raises(ValueError, match="size must be one of 'column', 'page', got 'poster'"):
            draw(size="poster")


def test_everything_is_drawn_into_the_axes_that_are_given(model):
    for name, (draw, n_panels) in _figures(model).items():
        own = Figure(figsize=(9, 9))
        given = list(own.subplots(n_panels, 2)[:, 0]) if n_panels > 1 else [own.subplots()]
        known = set(own.axes)
        word = "ax" if "ax" in inspect.signature(getattr(plot, name)).parameters else "axes"
        figure = draw(**{word: given[0] if word == "ax" else given})
        assert figure is own, name
        assert own.get_figwidth() == 9, name
        for axes in given:
            assert axes.has_data(), name
        assert not any(axes.has_data() for axes in known - set(given)), name
        assert len(own.axes) - len(known) == (name in ("factors", "coverage")), name  # Their bars of colours.
        # The same artists as in a figure of its own.
        new = draw().axes
        for axes, other in zip(given, new, strict=False):
            assert len(axes.lines) == len(other.lines), name
            assert len(axes.collections) == len(other.collections), name
        with pytest.raises(ValueError, match=f"the figure has {n_panels} panels, .*: give as many axes, not 7"):
            draw(**{word: own.subplots(7, 1)})
        with pytest.raises(TypeError, match="must be Matplotlib axes, got"):
            draw(**{word: "a"})


def test_a_panel_for_each_chip(model):
    labels, flux, ivar = model.training_set_labels[0], model.training_set_flux[0], model.training_set_ivar[0]
    figure = plot.spectrum(model, labels, flux, ivar)
    assert len(figure.axes) == 6
    for number, chip in enumerate((CHIPS[:60], CHIPS[60:110], CHIPS[110:])):
        top, bottom = figure.axes[2 * number : 2 * number + 2]
        for axes in (top, bottom):
            np.testing.assert_allclose(axes.get_xlim(), [chip[0], chip[-1]])
        np.testing.assert_array_equal(top.lines[0].get_xdata(), chip)
        np.testing.assert_array_equal(top.lines[0].get_ydata(), flux[np.isin(CHIPS, chip)])
        assert top.get_ylim() == figure.axes[0].get_ylim()
    assert figure.axes[-1].get_xlabel() == "Wavelength (Å)"
    assert len(plot.spectrum(model, labels).axes) == 3
    one = plot.spectrum(model, labels, flux, xlim=(16000, 16400)).axes
    assert len(one) == 2
    assert one[0].get_xlim() == (16000, 16400)
    two = plot.spectrum(model, labels, xlim=(16000, None)).axes
    assert [axes.get_xlim()[0] for axes in two] == [CHIPS[CHIPS > 16000][0], 16600]
    backwards = plot.spectrum(model, labels, xlim=(16400, 15500)).axes
    assert all(axes.get_xlim()[0] > axes.get_xlim()[1] for axes in backwards)


def test_extrapolated_stars_are_circles(model):
    inferred = model.training_set_labels.copy()
    highest = model.training_set_labels[:, 1].argmax()
    inferred[highest, 1] += 0.1
    figure = plot.one_to_one(model, inferred)
    for k in range(6):
        (circles,) = [line for line in figure.axes[k].lines if line.get_marker() == "o"]
        assert circles.get_xdata() == [model.training_set_labels[highest, k % 3]]
        assert circles.get_markerfacecolor() == "none"
    assert "1 extrapolated" in figure.axes[0].texts[0].get_text()
    assert "extrapolated" not in plot.one_to_one(model, model.training_set_labels).axes[0].texts[0].get_text()


def test_the_strongest_factor_comes_first(model):
    figure = plot.factors(model)
    shares = [float(axes.get_title(loc="right").split()[0]) for axes in figure.axes[:2]]
    assert shares[0] > shares[1]
    strongest = int(np.argmax(model.correlation.variance_shares(model.s2)))
    drawn = figure.axes[0].lines[-1].get_ydata()
    np.testing.assert_allclose(drawn[np.isfinite(drawn)], model.factors[:, strongest])
    assert figure.axes[0].get_ylabel() == f"$U_{{{strongest}}}$"


def test_many_terms_fit_a_page():
    figure = plot.theta(np.random.default_rng(0).normal(size=(40, 21)))
    assert figure.get_figheight() < 9.5
    assert len(figure.axes) == 21
    assert [axes.get_xlabel() for axes in figure.axes].count("Pixel") == 2
    assert figure.axes[10].get_xlabel() == figure.axes[20].get_xlabel() == "Pixel"
