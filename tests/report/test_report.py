"""The page says what model and labels say, names what is missing, needs no network, and escapes users' texts."""

import re
from importlib.util import find_spec

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

import bayes_cannon as tc
from bayes_cannon.cli import main
from bayes_cannon.report.page import Missing, Section

pytestmark = pytest.mark.skipif(find_spec("bokeh") is None, reason="bokeh is not installed")

NASTY = "</script><script>alert('x')</script><b>&"


@pytest.fixture(scope="module")
def fit(training, trained):
    return trained.fit_labels(training.flux[:80], training.ivar[:80])


@pytest.fixture(scope="module")
def label_table(training, trained, fit):
    reference = {f"{name}_REFERENCE": training.labels[:80, k] for k, name in enumerate(trained.label_names)}
    budget = trained.error_budget(training.flux[:80], training.ivar[:80], fit).columns(trained.label_names)
    budget = {name: values for name, values in budget.items() if not name.endswith("_TOTAL")}
    names = np.array([NASTY, *(f"star {n}" for n in range(79))])
    return tc.io.label_table(
        trained.label_names, fit, star_id=names, label_units={"TEFF": "K"}, extra=reference | budget,
        meta={"ERRORS": "formal", "DATA": NASTY},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(training, trained, label_table):
    """A page with all that needs no sampling."""
    return tc.report(
        trained, labels=label_table, spectra=(training.flux[:80], training.ivar[:80]),
        path=trained.train_path([0.0, 10.0, 1000.0]), candidates=training.labels,
        lines={NASTY: 16700.0, "Al": [16720, 1]}, title=NASTY,
    )  # fmt: skip


def plain(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def test_sections_are_there_or_say_how_to_get_them(whole, trained, label_table, training):
    cross_validation = tc.validate.CrossValidation(
        training.labels, training.labels + 1, np.broadcast_to(np.eye(3), (200, 3, 3)), np.zeros(200, int)
    )
    pages = [whole, tc.report(trained), tc.report(label_table), tc.report(cross_validation, model=trained)]
    for page in pages:
        assert list(page.sections) == list(whole.sections)
        for name, section in page.sections.items():
            assert f'id="{name}"' in page.html
            if isinstance(section, Missing):
                assert section.reason
                assert section.how_to_get_it
            else:
                assert f'href="#{name}"' in page.html
    assert {name for name, one in whole.sections.items() if isinstance(one, Missing)} == {"factors", "chains"}
    missing = {name for name, one in pages[2].sections.items() if isinstance(one, Missing)}
    assert missing == {"wavelengths", "factors", "worst-pixels", "certificates", "chains", "label-space", "lambda-path"}


def test_numbers_are_those_of_the_labels(whole, trained, training, fit):
    summary = tc.validate.summary_table(
        fit.labels, training.labels[:80], fit.covariance, label_names=trained.label_names
    )
    from bayes_cannon.report.markup import number

    body = whole.sections["validation"].body
    for name in ("bias", "robust_scatter", "robust_pull", "median_error"):
        for value in summary[name]:
            assert number(float(value)) in body
    inside = np.abs(tc.validate.pulls(fit.labels, training.labels[:80], fit.covariance)) < 0.994457883
    for share in inside.mean(axis=0):
        assert f"{100 * share:.1f} ±" in whole.sections["pulls"].body
    assert f"<dd>{len(trained.training_set_labels)}</dd>" in whole.sections["training"].body
    budget = trained.error_budget(training.flux[:80], training.ivar[:80], fit).errors()
    for k in range(3):
        assert number(float(np.median(budget["photon"][:, k]))) in whole.sections["error-sources"].body
    status = trained.certificates["status"]
    for number_of, name in ((0, "converged"), (1, "zero scatter")):
        count = int((status == number_of).sum())
        assert f" {count} {100 * count / 60:.1f} % {name} " in plain(whole.sections["statuses"].body)


def test_curves_are_those_of_the_model(whole, trained):
    data = whole.sections["wavelengths"].plots["theta"].select_one({"name": "theta-curves"}).data
    for term in range(10):
        np.testing.assert_array_equal(data[f"c{term}"], trained.theta[:, term].astype(np.float32))
    np.testing.assert_array_equal(data["s0"], np.sqrt(trained.s2).astype(np.float32))


def test_sparsity_is_that_of_the_path(whole, trained):
    path = trained.train_path([0.0, 10.0, 1000.0])
    body = plain(whole.sections["lambda-path"].body)
    for k, lam in enumerate(path.lambdas):
        assert f" {lam:g} {path.n_nonzero[k].mean():.1f} " in body


def test_page_needs_no_network_and_is_small(whole):
    markup = re.sub(r"<script.*?</script>", "", whole.html, flags=re.DOTALL)
    outside = re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:)([^"'\s>]+)""", markup)
    assert outside == []
    assert not re.search(r"<script[^>]+src=", whole.html)
    assert "@import" not in whole.html
    assert len(whole.html.encode()) < 3.5e6


def test_texts_of_users_are_escaped(whole):
    assert "alert('x')</script>" not in whole.html
    assert "<script>alert" not in whole.html
    assert "&lt;/script&gt;&lt;script&gt;alert" in whole.html


def test_notebook_shows_the_page_in_a_frame(whole):
    shown = whole._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2  # All of the page is escaped.


@pytest.mark.slow
def test_size_limit_with_many_pixels_and_stars():
    rng = np.random.default_rng(0)
    n_stars, n_pixels, names = 5000, 8000, ("TEFF", "LOGG", "FE_H", "MG_FE", "VMACRO")
    labels = rng.uniform([4000, 1, -1, 0, 0], [6000, 4, 0.4, 0.4, 10], (n_stars, 5))
    model = tc.CannonModel(
        labels, None, None, tc.vectorizer.PolynomialVectorizer(names, 2), dispersion=np.linspace(15000, 17000, n_pixels)
    )
    model.use_theta(rng.normal(0, 0.02, (n_pixels, 21)), rng.uniform(1e-5, 1e-4, n_pixels))
    errors = np.array([60.0, 0.1, 0.05, 0.04, 1.0])
    inferred = labels + errors * rng.normal(size=labels.shape)
    covariance = np.broadcast_to(np.diag(errors**2), (n_stars, 5, 5))
    table = tc.validate.CrossValidation(inferred, labels, covariance, np.zeros(n_stars, int))
    page = tc.report(model, labels=table)
    assert len(page.html.encode()) < 5e6


def test_local_models_have_curves_of_their_regions(training):
    local = tc.LocalCannonModel(training.labels, training.flux, training.ivar, training.vectorizer.label_names,
                                partitions=[(1, 2)], dispersion=training.dispersion)  # fmt: skip
    local.train()
    page = tc.report(local)
    assert isinstance(page.sections["wavelengths"], Section)
    data = page.sections["wavelengths"].plots["theta"].select_one({"name": "theta-curves"}).data
    np.testing.assert_array_equal(data["c3"], local.main_partition.regions[0].theta[:, 3].astype(np.float32))


@pytest.mark.slow
def test_posterior_gives_bands(training):
    model = training.model(slice(0, 6))
    model.train()
    page = tc.report(model, posterior=model.sample(key=0, method="psis"))
    assert isinstance(page.sections["chains"], Section)
    data = page.sections["wavelengths"].plots["theta"].select_one({"name": "theta-curves"}).data
    np.testing.assert_allclose((data["h1"] - data["l1"]) / 2, np.sqrt(model.posterior.covariance[:, 1, 1]), rtol=1e-3)


@pytest.mark.slow
def test_files_beside_each_other_are_found(tmp_path, trained, label_table):
    from hashlib import sha256

    trained.write(tmp_path / "a.model")
    table = label_table.copy()
    table.meta |= {"MODEL": "a.model", "MODELSHA": sha256((tmp_path / "a.model").read_bytes()).hexdigest()}
    tc.io.write_table(tmp_path / "a-labels.ecsv", table)
    for path in ("a.model", "a-labels.ecsv"):
        result = CliRunner().invoke(main, ["report", str(tmp_path / path), "-o", str(tmp_path / f"{path}.html")])
        assert result.exit_code == 0, result.output
        assert "not on the page: Chains" in result.output
        text = (tmp_path / f"{path}.html").read_text()
        assert 'id="validation"' in text
        assert 'id="wavelengths"' in text
    table.meta["MODELSHA"] = "0" * 64
    tc.io.write_table(tmp_path / "a-labels.ecsv", table, overwrite=True)
    assert isinstance(tc.report(tmp_path / "a.model").sections["validation"], Missing)
    assert isinstance(tc.report(tmp_path / "a-labels.ecsv").sections["wavelengths"], Missing)


def test_bad_input_is_refused(trained, training, fit, label_table):
    with pytest.raises(ValueError, match="give the model"):
        tc.report(fit)
    with pytest.raises(TypeError, match="a page is of"):
        tc.report(3)
    with pytest.raises(ValueError, match="not trained"):
        tc.report(training.model())
    with pytest.raises(ValueError, match="80 labelled stars"):
        tc.report(trained, labels=label_table, spectra=(training.flux, training.ivar))
    with pytest.raises(ValueError, match="columns name and wavelength"):
        tc.report(trained, lines=Table({"wave": [1.0]}))
    with pytest.raises(ValueError, match="no label table"):
        tc.report(Table({"a": [1.0]}))
    with pytest.raises(TypeError, match="train_path"):
        tc.report(trained, path=[1, 2])
