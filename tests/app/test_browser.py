"""Tests of the page in a real browser (Chromium), which Playwright drives.

`python -m tests.browser` runs them alone and saves screenshots.
"""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from support.web import serving_run

from lift_jax.app.limits import Limits

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SHOTS = os.environ.get("LIFT_JAX_SCREENSHOTS", "")
WIDTHS, SCHEMES = (390, 1400), ("light", "dark")
HOSTILE = "<img src=x onerror=alert(1)>.png"

pytestmark = [
    pytest.mark.slow,
    # a browser is no package: machines without one run the tests of the server's answers alone
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
    ),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # in a container a browser cannot make a sandbox of its own; it opens our page alone
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def port(answerer):
    answerer.warm_up()
    with serving_run(answerer, Limits(file_bytes=300_000), "<b>digits</b>") as port:
        yield port


@pytest.fixture
def page(browser, port):
    """Yields the page in a window of 390 pixels, and checks what it asked and said meanwhile."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append("a script of a name ran"))
    page.goto(f"http://127.0.0.1:{port}/")
    yield page
    here = (f"http://127.0.0.1:{port}/", "data:")
    assert asked and [url for url in asked if not url.startswith(here)] == []
    assert said == [] and context.cookies() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@pytest.fixture(scope="module")
def files():
    """Returns images as a browser is given them: two digits, noise, and two that are bad."""
    digits, rng = load_digits(), np.random.default_rng(0)
    pixels = {
        "three.png": 17 * digits.images[1503 + 8].clip(0, 15),
        HOSTILE: 17 * digits.images[1500].clip(0, 15),
        "noise.png": rng.integers(0, 255, (60, 90, 3)),
    }
    found = []
    for name, values in pixels.items():
        file = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).resize((160, 160)).save(file, "PNG")
        found.append({"name": name, "mimeType": "image/png", "buffer": file.getvalue()})
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(300_001)}
    return [*found, {"name": "text.png", "mimeType": "image/png", "buffer": b"no image"}, large]


def wait(page, images):
    sync_api.expect(page.locator("section.answer")).to_have_count(images)
    sync_api.expect(page.locator("[aria-busy]")).to_have_count(0, timeout=60_000)


def test_chosen_files_are_answered(page, files, answerer):
    page.locator("#files").set_input_files(files)
    wait(page, 5)
    status = page.locator("#status")
    assert status.inner_text() == "3 of 5 images named, 2 cannot be read."
    assert status.get_attribute("role") == "status"
    names = page.locator("section.answer h2").all_inner_texts()
    assert names == [file["name"] for file in files]  # a name is text, also the hostile one
    images = [file["buffer"] for file in files[:3]]
    expected = answerer.predictor.predict(images, 5, unknown=True, sets=True)
    for i, right in enumerate(expected):
        told = page.locator("section.answer").nth(i)
        assert told.locator("tbody th").all_inner_texts() == list(right.labels)
        share = told.locator("td.share").first.inner_text()
        assert share.strip() == f"{100 * right.probabilities[0]:.1f} %"
        verdict = told.locator(".verdict").inner_text()
        assert verdict.startswith("Unknown") if right.unknown else verdict == right.labels[0]
        near = told.locator(".near img")
        assert near.count() == 5
        near.last.scroll_into_view_if_needed()
        sync_api.expect(near.last).to_have_js_property("naturalWidth", 32)
    bad = page.locator("section.bad .verdict").all_inner_texts()
    assert "no image in a known format" in bad[0] and bad[1] == "The file has more than 300.0 kB."
    assert page.locator("h1").inner_text() == "Try <b>digits</b>"


DROP = """([kind, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "given.png", { type: "image/png" }));
  const event = kind === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
  document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_dropped_and_pasted_files_are_answered(page, files, kind):
    import base64

    page.evaluate(DROP, [kind, base64.b64encode(files[0]["buffer"]).decode()])
    wait(page, 1)
    assert page.locator("#status").inner_text() == "1 of 1 image named."
    assert page.locator("section.answer h2").inner_text() == "given.png"


def test_many_files_come_in_parts(page, files):
    page.locator("#files").set_input_files([files[0]] * 20)
    wait(page, 20)
    assert page.locator("#status").inner_text() == "20 of 20 images named."


def test_the_keyboard_is_enough(page, files):
    opened = []
    page.on("filechooser", lambda chosen: opened.append(chosen))
    page.keyboard.press("Tab")
    chooser = page.locator("#files")
    sync_api.expect(chooser).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(100):
        if not opened:
            page.wait_for_timeout(100)
    opened[0].set_files(files[0])
    wait(page, 1)
    page.keyboard.press("Tab")
    sync_api.expect(page.locator("#clear")).to_be_focused()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("section.answer")).to_have_count(0)
    sync_api.expect(chooser).to_be_focused()


def test_a_screen_reader_has_names_for_all(page, files):
    page.locator("#files").set_input_files(files[0])
    wait(page, 1)
    tree = page.locator("main").aria_snapshot()
    for expected in (
        'heading "Try <b>digits</b>" [level=1]', "button \"or drop them", "status: 1 of 1 image",
        'heading "three.png" [level=2]', "columnheader \"Training images\"", "rowheader",
        'heading "Most alike training images" [level=3]', 'button "Clear"',
    ):  # fmt: skip
        assert expected in tree, tree


def test_the_end_of_the_server_is_said(browser, port, files):
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.route("**/api/predict", lambda route: route.abort())
    page.locator("#files").set_input_files(files[:2])
    wait(page, 2)
    for told in page.locator(".bad .verdict").all_inner_texts():
        assert "does lift-jax app still run" in told
    page.close()


@pytest.mark.skipif(not SHOTS, reason="screenshots are made by python -m tests.browser FOLDER")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_screenshots(browser, port, files, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 5000}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#files").set_input_files(files)
    wait(page, 5)
    page.wait_for_load_state("networkidle")
    page.locator("main").screenshot(path=Path(SHOTS) / f"app_{width}_{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
