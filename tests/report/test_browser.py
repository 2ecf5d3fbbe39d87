"""The page in a real browser: nothing is fetched, nothing fails, figures zoom, and labels can be switched."""

import shutil

import numpy as np
import pytest

import bayes_cannon as tc

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
VALUE = "([name, property]) => Bokeh.documents.map((one) => one.get_model_by_name(name)).find((one) => one)[property]"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, training, trained):
    pytest.importorskip("bokeh")
    fit = trained.fit_labels(training.flux, training.ivar)
    page = tc.report(trained, labels=fit, reference=training.labels, spectra=(training.flux, training.ivar))
    return page.write(tmp_path_factory.mktemp("report") / "page.html")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_works_in_a_browser(page_file, width, scheme):
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
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
