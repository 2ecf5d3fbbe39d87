"""The page in a real browser: nothing is fetched, nothing fails, figures zoom, and labels can be switched."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter1d

import bayes_cannon as tc
from bayes_cannon.cli import main

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROOT = Path(__file__).parents[2]
MILES = ROOT.parent / "shared/data/miles.npz"
VALUE = "([name, property]) => Bokeh.documents.map((one) => one.get_model_by_name(name)).find((one) => one)[property]"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, training, trained):
    pytest.importorskip("bokeh")
    fit = trained.fit_labels(training.flux, training.ivar)
    page = tc.report(trained, labels=fit, reference=training.labels, spectra=(training.flux, training.ivar))
    return page.write(tmp_path_factory.mktemp("report") / "page.html")


@contextmanager
def opened(page_file, width, scheme):
    """The page in a browser of that width; afterwards nothing was said, asked for, or wider than the screen."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        said, asked = [], []
        page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda one: said.append(str(one)))
        page.on("request", lambda one: asked.append(one.url))
        page.goto(page_file.as_uri())
        page.wait_for_function("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        yield page
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_works_in_a_browser(page_file, width, scheme):
    with opened(page_file, width, scheme) as page:
        if width < 900:
            page.click("nav summary")
        page.click('nav a[href="#wavelengths"]')
        page.wait_for_function("Math.abs(document.querySelector('#wavelengths').getBoundingClientRect().top) < 200")

        line = ["theta-line", "y"]
        assert page.evaluate(VALUE, line)["field"] == "c0"
        page.select_option('select[data-switch="term"]', label="Teff")
        assert page.evaluate(VALUE, line)["field"] == "c1"
        page.select_option('select[data-switch="y"]', index=1)
        page.select_option('select[data-switch="x"]', label="S/N")
        assert page.evaluate(VALUE, ["residuals-dots", "y"])["field"] == "y1"
        assert page.evaluate(VALUE, ["residuals-dots", "x"])["field"] == "x3"
        assert page.evaluate(VALUE, ["residuals-xaxis", "axis_label"]) == "S/N"

        before = np.array([page.evaluate(VALUE, ["wavelengths", end]) for end in ("start", "end")])
        figure = page.locator("#wavelengths figure").first
        figure.scroll_into_view_if_needed()
        box = figure.bounding_box()
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
        page.mouse.up()
        after = np.array([page.evaluate(VALUE, ["wavelengths", end]) for end in ("start", "end")])
        assert before[0] < after[0] < after[1] < before[1]
        assert np.ptp(after) < 0.5 * np.ptp(before)


@pytest.fixture(scope="module")
def miles_page(tmp_path_factory):
    """The page that the commands make of MILES stars and those held out, in a tenth of their wavelengths."""
    pytest.importorskip("bokeh")
    if not MILES.exists():
        pytest.skip(f"there is no {MILES.name} beside the project's folder")
    folder = tmp_path_factory.mktemp("miles")
    with np.load(MILES, allow_pickle=False) as file:
        stars = {name: file[name] for name in ("labels", "label_names", "wavelength")}
        flux = file["flux"].astype(float)
    flux /= gaussian_filter1d(flux, 50 / np.median(np.diff(stars["wavelength"])), axis=1, mode="nearest")
    np.savez(folder / "miles.npz", flux=flux, ivar=np.full(flux.shape, 0.005**-2), **stars)
    recipe = (ROOT / "models/miles/recipe.toml").read_text()
    assert "[4000.0, 6800.0]" in recipe
    (folder / "recipe.toml").write_text(recipe.replace("[4000.0, 6800.0]", "[5100.0, 5400.0]"))
    for words in (
        ("train", folder / "recipe.toml", "--output", folder, "--quiet"),
        ("report", folder / "miles.model", "--output", folder / "page.html", "--quiet"),
    ):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    return folder / "page.html"


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_of_real_stars(miles_page, width, scheme):
    with opened(miles_page, width, scheme) as page:
        tiles = page.locator(".tile").all_inner_texts()
        assert tiles[0].split() == ["426", "training", "stars"]
        assert [tile.split()[0] for tile in tiles if "stars compared" in tile] == ["104"]
        sections = page.locator("main h2").all_inner_texts()
        assert {"Labels against reference", "Coverage in label space", "The worst stars"} <= set(sections)
        # A star of the training range that is extrapolated is a circle in the figure, and is counted.
        assert page.locator("svg text", has_text="extrapolated").count() >= 1
        rows = page.locator("table tbody tr")
        heights = [rows.nth(number).bounding_box()["height"] for number in range(3)]
        assert max(heights) < 40  # In one line each, on a phone as well.
