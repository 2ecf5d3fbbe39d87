import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure

from bayes_cannon import plot

NAMES = ("TEFF", "LOGG", "FE_H")


def stars(n=400):
    rng = np.random.default_rng(0)
    return rng.normal([4800, 2.5, -0.2], [300, 0.8, 0.3], (n, 3))


def test_pairs_below_and_histograms_on_the_diagonal():
    labels, chosen = stars(), np.array([3, 40, 399])
    figure = plot.label_space(labels, chosen, NAMES)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 6
    first, second, _, _, _, last = figure.axes
    np.testing.assert_array_equal(second.lines[0].get_xydata(), labels[chosen][:, [0, 1]])
    assert second.get_ylabel() == r"$\log g$ (dex)"
    assert last.get_xlabel() == r"$[\mathrm{Fe/H}]$ (dex)"
    assert [text.get_text() for text in figure.legends[0].texts] == ["all 400 stars", "3 chosen"]
    heights = [bar.get_height() * bar.get_width() for bar in first.patches[:48]]
    assert sum(heights) == pytest.approx(1.0)


def test_all_stars_are_within_the_axes_and_counted():
    labels = stars()
    pair = plot.label_space(labels, np.arange(5), NAMES).axes[1]
    counts = np.expm1(pair.collections[0].get_array().filled(0.0))
    assert counts.sum() == pytest.approx(len(labels))
    for limits, values in ((pair.get_xlim(), labels[:, 0]), (pair.get_ylim(), labels[:, 1])):
        assert limits[1] < values.min()  # As in a Kiel diagram.
        assert limits[0] > values.max()


def test_a_mask_and_its_rows_give_the_same_points():
    labels = stars()
    mask = labels[:, 0] > 5000
    points = [
        plot.label_space(labels, chosen, NAMES).axes[1].lines[0].get_xydata() for chosen in (mask, np.flatnonzero(mask))
    ]
    np.testing.assert_array_equal(*points)


def test_columns_are_chosen_by_name_and_units_are_shown(tmp_path):
    table = Table(stars(), names=NAMES)
    table["TEFF"].unit = "K"
    figure = plot.label_space(table, [0, 1], ("LOGG", "TEFF"), latex_label_names=[r"\log g", r"T_\mathrm{eff}"])
    assert len(figure.axes) == 3
    assert figure.axes[1].get_ylabel() == r"$T_\mathrm{eff}$ (K)"
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert len(plot.label_space(table, [0, 1]).axes) == 6


def test_one_label_and_no_choice():
    figure = plot.label_space(stars()[:, 0])
    assert len(figure.axes) == 1
    assert figure.axes[0].get_xlabel() == "column 0"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 400], "0 to 399, got 400"),
        ([-1, 3], "0 to 399, got -1"),
        (np.ones(3, dtype=bool), r"shape \(400,\).*got shape \(3,\)"),
        ([0.5, 1.0], "float64"),
        ([[0, 1]], r"shape \(1, 2\)"),
    ],
)
def test_bad_choices_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        plot.label_space(stars(), chosen, NAMES)


def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="no column 'ALPHA'"):
        plot.label_space(Table(stars(), names=NAMES), [0], ("ALPHA",))
    with pytest.raises(ValueError, match="latex_label_names"):
        plot.label_space(stars(), [0], NAMES, latex_label_names=["x"])
