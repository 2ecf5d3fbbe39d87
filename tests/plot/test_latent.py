"""The figure of the latent factors."""

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon import plot


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 6000, 120), rng.uniform(1, 4, 120)])
    z = rng.normal(size=(120, 2))
    factors = 0.02 * np.array([np.sin(np.arange(25)), 0.5 * np.cos(np.arange(25))]).T
    flux = 1 + 1e-4 * (labels[:, :1] - 5000) * np.linspace(-1, 1, 25) + z @ factors.T
    flux += 0.003 * rng.normal(size=flux.shape)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
    wavelength = np.linspace(5000, 6000, 25)
    model = tc.CannonModel(
        labels, flux, np.full(flux.shape, 1e6), vectorizer, dispersion=wavelength, scatter=tc.scatter.LowRank(2)
    )
    model.train()
    return model, z


def test_curves_shares_and_correlations(model):
    trained, z = model
    figure = plot.factors(trained)
    first, second, below = figure.axes[:3]
    np.testing.assert_allclose(first.lines[-1].get_ydata(), trained.factors[:, 0])
    np.testing.assert_allclose(first.lines[-1].get_xdata(), trained.dispersion)
    shares = [float(axes.get_title(loc="right").split()[0]) for axes in (first, second)]
    assert shares[0] > 2 * shares[1]
    assert 90 < sum(shares) < 100
    image = below.images[0].get_array()
    assert image.shape == (2, 3)
    assert np.abs(image[:, :2]).max() < 0.05
    means = trained.latent_factors(trained.training_set_flux, trained.training_set_ivar, trained.training_set_labels)
    assert np.abs(np.corrcoef(means.T, z.T)[:2, 2:]).max(axis=1).min() > 0.98


def test_some_factors_without_spectra(model, tmp_path):
    trained, _ = model
    trained.write(tmp_path / "a.model")
    figure = plot.factors(tc.CannonModel.read(tmp_path / "a.model"), [1])
    assert len(figure.axes) == 1
    figure.savefig(tmp_path / "a.png")


def test_bad_input(model):
    trained, _ = model
    with pytest.raises(ValueError, match="there is no factor 2: the model has 2, from 0 to 1"):
        plot.factors(trained, [2])
    independent = tc.CannonModel(np.arange(5.0)[:, None], np.ones((5, 3)), np.ones((5, 3)), _one_label())
    with pytest.raises(ValueError, match="no latent factors"):
        plot.factors(independent)
    with pytest.raises(ValueError, match="both need one row a star"):
        trained.latent_factors(trained.training_set_flux[:3], trained.training_set_ivar[:3], [[5000.0, 2.0]])


def _one_label():
    return tc.vectorizer.PolynomialVectorizer(("TEFF",), 1)


def test_leading_directions_of_a_full_covariance(model):
    low_rank, z = model
    full = tc.CannonModel(
        low_rank.training_set_labels, low_rank.training_set_flux, low_rank.training_set_ivar, low_rank.vectorizer,
        dispersion=low_rank.dispersion, scatter=tc.scatter.Full(),
    )  # fmt: skip
    full.train()
    figure = plot.factors(full, [0, 1])
    shares = [float(axes.get_title(loc="right").split()[0]) for axes in figure.axes[:2]]
    # The noise of 0.003, against a mean square of about 1.5 times 0.01^2 of the factors, belongs to the scatter here.
    assert shares[0] > shares[1] > 5
    assert 60 < sum(shares) < 99
    means = full.latent_factors(full.training_set_flux, full.training_set_ivar, full.training_set_labels)
    assert np.abs(np.corrcoef(means[:, :2].T, z.T)[:2, 2:]).max(axis=1).min() > 0.95
