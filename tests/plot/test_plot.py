import importlib
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from bayes_cannon import plot
from bayes_cannon.plot import _matplotlib
from bayes_cannon.plot._matplotlib import with_gaps
from bayes_cannon.vectorizer import PolynomialVectorizer

NAMES = ("TEFF", "LOGG", "FE_H")
LATEX = [r"T_{\rm eff}", r"\log{g}", r"[{\rm Fe}/{\rm H}]"]
UNITS = {"TEFF": "K", "LOGG": "dex"}
WAVELENGTH = np.concatenate([np.linspace(15100, 15800, 30), np.linspace(15900, 16400, 30)])


def make_model(seed=0, dispersion=WAVELENGTH):
    """What the figures need of a trained model, with random coefficients."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(60, 10))
    labels = rng.normal([5000, 2.5, 0], [300, 0.5, 0.2], (40, 3))
    return SimpleNamespace(
        theta=theta,
        s2=np.r_[np.inf, rng.uniform(0.01, 0.02, 59) ** 2],
        dispersion=dispersion,
        vectorizer=PolynomialVectorizer(NAMES, 2),
        training_set_labels=labels,
        label_units=UNITS,
    )


class Predicting(SimpleNamespace):
    def __call__(self, labels):
        return 1 - 1e-5 * (labels[0] - 5000) + 0 * self.theta[:, 0]


@pytest.fixture
def model():
    return Predicting(**vars(make_model()))


def drawn(figure):
    """Every figure must also be drawable: mathtext and layout fail only then."""
    figure.canvas.draw()
    return figure


def curve(axes, number=0):
    return axes.get_lines()[number].get_ydata()


def finite(values):
    return values[np.isfinite(values)]


class TestTheta:
    def test_every_term_has_a_panel_with_its_name_and_values(self, model):
        figure = drawn(plot.theta(model))
        assert len(figure.axes) == 10
        np.testing.assert_allclose(finite(curve(figure.axes[0])), model.theta[:, 0])
        for term in range(1, 10):
            largest = np.abs(model.theta[:, term]).max()
            np.testing.assert_allclose(finite(curve(figure.axes[term])), model.theta[:, term] / largest)
        assert [axes.texts[0].get_text() for axes in figure.axes[:5]] == ["1", "Teff", "log g", "[Fe/H]", "Teff²"]
        assert figure.axes[-1].get_xlabel() == "Wavelength"

    def test_guide_call(self, model):
        model.dispersion = None
        figure = drawn(plot.theta(model, indices=range(5), xlim=(0, 35), latex_label_names=LATEX))
        assert len(figure.axes) == 5
        assert figure.axes[0].get_xlim() == (0, 35)
        assert figure.axes[4].texts[0].get_text() == r"$T_{\rm eff}^2$"
        assert figure.axes[-1].get_xlabel() == "Pixel"
        # Normalized over what is shown, not over pixels beyond the limits.
        assert np.abs(finite(curve(figure.axes[1]))[:36]).max() == 1

    def test_terms_by_text_follow_indices_and_none_comes_twice(self, model):
        figure = plot.theta(model, indices=0, label_terms=["FE_H", "TEFF*LOGG", "1"], show_label_terms=False)
        assert [axes.get_ylabel()[:20] for axes in figure.axes] == [
            r"$\theta_{0}$", r"$\dfrac{\theta_{3}}{", r"$\dfrac{\theta_{5}}{",
        ]  # fmt: skip
        assert not figure.axes[0].texts
        assert len(plot.theta(model, label_terms="LOGG").axes) == 1
        assert "theta_{9}" in plot.theta(model, indices=[-1], normalize=False).axes[0].get_ylabel()

    def test_several_trainings_share_one_scale(self, model):
        other = 0.25 * model.theta
        figure = drawn(plot.theta({"default": model, "regularized": other}, indices=[2]))
        (axes,) = figure.axes
        assert np.abs(finite(curve(axes, 0))).max() == 1
        np.testing.assert_allclose(finite(curve(axes, 1)), 0.25 * finite(curve(axes, 0)))
        assert [text.get_text() for text in figure.legends[0].texts] == ["default", "regularized"]
        colours = {line.get_color() for line in axes.get_lines()[:2]}
        assert len(colours) == 2

    def test_array_alone(self, model):
        figure = drawn(plot.theta(model.theta, plot_kwds={"color": "red"}))
        assert len(figure.axes) == 10
        assert not figure.axes[0].texts
        assert figure.axes[0].get_lines()[0].get_color() == "red"

    def test_pixels_without_solution_and_zero_coefficients(self, model):
        model.theta[:5] = np.nan
        model.theta[:, 3] = 0
        figure = drawn(plot.theta(model))
        assert np.nanmax(np.abs(curve(figure.axes[1]))) == 1
        assert (finite(curve(figure.axes[3])) == 0).all()

    def test_refusals(self, model):
        with pytest.raises(ValueError, match="no term 10: the terms are 0 to 9"):
            plot.theta(model, indices=[10])
        with pytest.raises(ValueError, match="unknown label 'MG_H' in a term"):
            plot.theta(model, label_terms=["MG_H"])
        with pytest.raises(ValueError, match=r"default: \(60, 10\), other: \(60, 4\)"):
            plot.theta({"default": model, "other": model.theta[:, :4]})
        with pytest.raises(ValueError, match="label_terms needs a model"):
            plot.theta(model.theta, label_terms=["TEFF"])
        with pytest.raises(ValueError, match="one name for each of TEFF, LOGG, FE_H; got 1"):
            plot.theta(model, latex_label_names=["T"])
        with pytest.raises(ValueError, match=r"dispersion must have shape \(60,\)"):
            plot.theta(model, dispersion=np.arange(3))
        with pytest.raises(ValueError, match="empty"):
            plot.theta({})
        with pytest.raises(ValueError, match="no term to show"):
            plot.theta(model, indices=[])
        model.theta = None
        with pytest.raises(ValueError, match="the model 'new' is not trained"):
            plot.theta({"new": model})


class TestScatter:
    def test_values_and_blank_pixels(self, model):
        figure = drawn(plot.scatter(model))
        (axes,) = figure.axes
        np.testing.assert_allclose(finite(curve(axes)), np.sqrt(model.s2[1:]))
        assert axes.get_ylim()[0] == 0
        assert axes.get_xlabel() == "Wavelength"

    def test_several_in_given_axes(self, model):
        axes = _matplotlib.new_figure("column", 3).subplots()
        figure = plot.scatter({"default": model, "array": 4 * model.s2}, ax=axes, xlim=(15000, None))
        assert figure is axes.figure
        np.testing.assert_allclose(finite(curve(axes, 1)), 2 * finite(curve(axes, 0)))
        assert [text.get_text() for text in axes.get_legend().texts] == ["default", "array"]


class TestOneToOne:
    def test_guide_call_shows_every_star_and_the_statistics(self, model):
        inferred = model.training_set_labels + np.array([20, 0.1, -0.02])
        cov = np.broadcast_to(np.diag([100, 0.01, 0.0025]), (40, 3, 3))
        figure = drawn(plot.one_to_one(model, inferred, cov=cov, latex_label_names=LATEX))
        assert len(figure.axes) == 6
        assert figure.axes[0].get_title() == r"$T_{\rm eff}$ (K)"
        assert figure.axes[2].get_title() == r"$[{\rm Fe}/{\rm H}]$ (dex)"
        texts = [axes.texts[0].get_text() for axes in figure.axes[:3]]
        assert texts[0].startswith("bias +20 K\nscatter 0")
        assert "bias \N{MINUS SIGN}0.020\n" in texts[2]
        for k in range(3):
            shown = sum(line.get_ydata().size for line in figure.axes[k].get_lines() if line.get_marker() != "None")
            assert shown == 40
            assert figure.axes[k].get_xlim() == figure.axes[k].get_ylim()
            bars = figure.axes[k].collections[0].get_segments()
            lengths = np.array([np.ptp(bar[:, 1]) for bar in bars])
            np.testing.assert_allclose(lengths, 2 * np.sqrt(cov[0, k, k]), rtol=1e-9)

    def test_outliers_stand_at_the_edge_and_failures_are_counted(self, model):
        inferred = model.training_set_labels.copy()
        inferred[0] = 1e6
        inferred[1:4] = np.nan
        figure = drawn(
            plot.one_to_one(model, np.repeat(inferred, 10, 0), reference=np.repeat(model.training_set_labels, 10, 0))
        )
        sizes = {line.get_marker(): len(line.get_ydata()) for line in figure.axes[3].get_lines()}
        assert sizes["^"] == 10
        assert sizes["v"] == 0
        assert sizes["."] == 360
        assert "30 without result" in figure.axes[0].texts[0].get_text()

    def test_reference_and_many_labels(self):
        names = tuple(f"L{k}" for k in range(6))
        model = SimpleNamespace(vectorizer=PolynomialVectorizer(names, 1), training_set_labels=np.zeros((3, 6)))
        labels = np.random.default_rng(0).normal(size=(8, 6))
        figure = drawn(plot.one_to_one(model, labels, reference=labels, show_statistics=False))
        assert [axes.get_title() for axes in figure.axes[:6]] == list(names)
        assert len(figure.axes) == 12
        assert not figure.axes[0].texts

    def test_refusals(self, model):
        labels = model.training_set_labels
        with pytest.raises(ValueError, match=r"for other stars than the training set give reference="):
            plot.one_to_one(model, labels[:5])
        with pytest.raises(ValueError, match=r"reference must have the shape of test_labels, \(5, 3\), got \(4, 3\)"):
            plot.one_to_one(model, labels[:5], reference=labels[:4])
        with pytest.raises(ValueError, match=r"cov must have shape \(40, 3, 3\), got \(40, 3\)"):
            plot.one_to_one(model, labels, labels)
        with pytest.raises(ValueError, match=r"test_labels must have shape \(star, 3\)"):
            plot.one_to_one(model, labels[:, :2])


class TestSpectrum:
    labels = np.array([5100.0, 2.5, -0.1])

    def test_model_over_data(self, model):
        flux = model(self.labels) + 0.01
        ivar = np.full(60, 1e4)
        flux[7], ivar[7] = np.nan, 0
        cov = np.diag([400.0, 0.01, 0.0025])
        figure = drawn(plot.spectrum(model, self.labels, flux, ivar, cov=cov, xlim=(15100, 15800)))
        top, bottom = figure.axes
        assert top.get_title() == (
            r"$T_\mathrm{eff}$ = 5100 ± 20 K, $\log g$ = 2.50 ± 0.10 dex, $[\mathrm{Fe/H}]$ = "
            "\N{MINUS SIGN}0.100 ± 0.050"
        )
        np.testing.assert_allclose(finite(curve(bottom, 1)), 0.01)
        assert finite(curve(bottom, 1)).size == 59
        assert {text.get_text() for text in top.get_legend().texts} == {"data", "noise", "model", "scatter $s$"}
        assert {text.get_text() for text in bottom.get_legend().texts} == {"noise", "noise and scatter"}

    def test_model_alone_and_data_without_noise(self, model):
        figure = drawn(plot.spectrum(model, self.labels[None], latex_label_names=LATEX))
        assert len(figure.axes) == 1
        assert figure.axes[0].get_title().startswith(r"$T_{\rm eff}$ = 5100 K")
        figure = drawn(plot.spectrum(model, self.labels, np.ones((1, 60)), title="a star"))
        assert figure.axes[0].get_title() == "a star"
        assert "noise" not in {text.get_text() for text in figure.axes[0].get_legend().texts}

    def test_refusals(self, model):
        with pytest.raises(ValueError, match=r"flux must have shape \(60,\)"):
            plot.spectrum(model, self.labels, np.ones(59))
        with pytest.raises(ValueError, match=r"labels must have shape \(3,\), one value for each of TEFF, LOGG, FE_H"):
            plot.spectrum(model, self.labels[:2])
        model.theta = None
        with pytest.raises(ValueError, match="not trained"):
            plot.spectrum(model, self.labels)


def test_no_line_crosses_a_gap():
    x = np.array([1.0, 2, 3, 10, 11, 12])
    position, y = with_gaps(x, 2 * x)
    np.testing.assert_array_equal(np.isnan(y), [0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(y[~np.isnan(y)], 2 * x)
    assert position[3] == 6.5
    backwards, _ = with_gaps(x[::-1], x)
    np.testing.assert_array_equal(backwards, position[::-1])
    np.testing.assert_array_equal(with_gaps(np.array([5.0]), np.array([1.0]))[1], [1.0])


def test_figures_save_show_themselves_in_notebooks_and_change_nothing_global(model, tmp_path):
    before = dict(mpl.rcParams)
    figure = plot.scatter(model)
    figure.savefig(tmp_path / "scatter.png", dpi=50)
    assert (tmp_path / "scatter.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert dict(mpl.rcParams) == before


def test_importing_the_package_imports_neither_matplotlib_nor_pyplot():
    code = (
        "import sys, bayes_cannon.plot as p, numpy as np; p.theta, p.spectrum; "
        "assert 'matplotlib' not in sys.modules; "
        "p.scatter(np.ones(3)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_missing_matplotlib_names_the_extra(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _matplotlib._figure_class.cache_clear()
    with pytest.raises(ImportError, match=r"bayes-cannon\[plots\]"):
        plot.scatter(model)


def test_names():
    importlib.import_module("bayes_cannon.plot.label_space")
    assert {"theta", "scatter", "one_to_one", "spectrum", "label_space"} <= set(dir(plot))
    for name in plot.__all__:
        assert callable(getattr(plot, name))
    with pytest.raises(AttributeError, match="no attribute 'histogram'"):
        plot.histogram
