"""The report in a real browser: no errors, the player scrubs, its numbers are the library's."""

from __future__ import annotations

import json
import re
import shutil

import h5py
import numpy as np
import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.report.diagnosis import diagnose
from builder.report.page import bars, text
from builder.report.report import TERMS, point_regions, write_report
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from schemas import normalize

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IMG_SHAPE = (60, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_video(folder / "videos" / "wide <b>.mp4", count=20, shape=(48, 120))
    write_video(folder / "videos" / "tall.mp4", count=11, shape=(90, 50))
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    argv = ["--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    settings = ["queries.grid=[4, 5]", "tracker.horizon=8"]
    assert main(["build", *settings, *argv, "--img-shape", *map(str, IMG_SHAPE)]) == 1
    assert main(["report", str(folder / "out"), "--out", str(folder / "report.html")]) == 0
    return folder


def page_data(folder):
    page = (folder / "report.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))


def build_and_report(folder, count, *settings):
    """Write the report of a dataset of one video of ``count`` frames."""
    write_video(folder / "videos" / "a.mp4", count=count, shape=(48, 64))
    argv = ["--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    assert main(["build", *settings, *argv, "--img-shape", "32", "48"]) == 0
    assert main(["report", str(folder / "out"), "--out", str(folder / "report.html")]) == 0


def test_the_page_needs_nothing_else_and_names_what_failed(folder):
    page = (folder / "report.html").read_text()
    assert "broken.mp4" in page
    assert "Verdict" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page.replace("http-equiv", "")


def test_it_says_what_it_was_built_from_and_where_the_points_are(folder):
    page = (folder / "report.html").read_text()
    assert "video source" in page
    # A wide and a tall picture, each with an even grid: counted by hand from the query points.
    dataset = open_dataset(folder / "out")
    (shares,) = point_regions(dataset, dataset.ids).values()
    expected = np.zeros((3, 3))
    for episode in dataset:
        (view,) = episode.views.values()
        for x, y in view.tracks[:16].reshape(-1, 2):
            row, column = (
                sum(value >= k * size / 3 for k in (1, 2))
                for value, size in ((y, IMG_SHAPE[0]), (x, IMG_SHAPE[1]))
            )
            expected[row, column] += 1
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.02)
    assert f"{shares[1, 1]:.1%}" in page


def test_the_table_has_every_view(folder):
    data = page_data(folder)
    assert {row[2] for row in data["rows"]} == {20, 11}
    assert {row[3] for row in data["rows"]} == {"48 x 120", "90 x 50"}


def test_the_film_comes_first_and_terms_are_explained_where_they_stand(folder):
    page = (folder / "report.html").read_text()
    order = ["Verdict", 'id="player"', "<h2>Doctor", "<h2>How it was built", "<h2>Distributions"]
    places = [page.index(each) for each in order]
    assert places == sorted(places)
    doctor = page[places[2] : places[3]]
    for term, meaning in TERMS.items():
        assert f"<dt>{term}</dt><dd>{text(meaning)}</dd>" in page[places[4] :]
        assert (f"<dt>{term}</dt>" in doctor) == (term in doctor)


def test_what_is_the_same_in_all_is_said_once(tmp_path):
    build_and_report(tmp_path, 12, "tracker.preset=fast")
    page = (tmp_path / "report.html").read_text()
    assert "<dt>Source size</dt><dd>48 x 64 px</dd>" in page
    assert "<dt>Episode lengths</dt><dd>12 frames</dd>" in page
    assert "Source sizes (height x width)" not in page


def test_a_budget_leaves_episodes_out_of_the_player(folder, tmp_path):
    small = tmp_path / "small.html"
    argv = ["report", str(folder / "out"), "--out", str(small), "--budget-mb", "0.001"]
    assert main(argv) == 0
    assert small.read_text().count("<option>") == 1


def test_damaged_episodes_are_listed_and_the_others_shown(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "out", damaged)
    lost, kept = open_dataset(damaged).ids
    for name in ("frames", "tracks"):  # the doctor reads tracks, the player pictures as well
        with h5py.File(damaged / "episodes" / f"{lost}.hdf5", "a") as file:
            del file[f"root/main/{name}"]
        assert main(["report", str(damaged), "--out", str(tmp_path / "report.html")]) == 1
        assert [episode["id"] for episode in page_data(tmp_path)["episodes"]] == [kept]
        assert f"root/main/{name}: it is listed" in (tmp_path / "report.html").read_text()


def test_tracks_that_are_no_numbers_are_damage(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "out", damaged)
    lost, kept = open_dataset(damaged).ids
    with h5py.File(damaged / "episodes" / f"{lost}.hdf5", "a") as file:
        file["root/main/tracks"][0, 0, 0] = float("nan")
    assert main(["report", str(damaged), "--out", str(tmp_path / "report.html")]) == 1
    assert [episode["id"] for episode in page_data(tmp_path)["episodes"]] == [kept]
    assert "tracks hold NaN" in (tmp_path / "report.html").read_text()


def test_the_player_passes_every_frame_where_starts_do_not_divide_the_horizon(tmp_path):
    settings = ["queries.grid=[2, 3]", "tracker.horizon=8", "tracker.start_every=3"]
    build_and_report(tmp_path, 24, *settings)
    (episode,) = page_data(tmp_path)["episodes"]
    passed = {start + step for start in episode["starts"] for step in range(8)}
    assert passed >= set(range(24))


def test_views_without_tracks_have_no_numbers_of_motion(tmp_path):
    build_and_report(tmp_path, 5, "tracker.kind=none")
    (row,) = page_data(tmp_path)["rows"]
    assert row[6:9] == ["", "", ""]
    assert 'id="player"' not in (tmp_path / "report.html").read_text()  # there is nothing to play


def test_of_a_large_dataset_some_episodes_are_read_and_the_page_says_so(tmp_path, monkeypatch):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample(f"e{at}", seed=at) for at in range(7)])
    monkeypatch.setattr("builder.report.report.MAX_EPISODES", 3)
    opened, counted = [], []
    function = Hdf5Store.open
    monkeypatch.setattr(Hdf5Store, "open", lambda *given: opened.append(1) or function(*given))
    page = tmp_path / "page.html"
    report = write_report(open_dataset(tmp_path), page, on_progress=lambda *n: counted.append(n))
    assert len(opened) == 3  # each once, for all that the page tells
    assert counted == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert report.views[0].episodes == 3
    told = "4 of 7 episodes were not looked at"
    assert told in page.read_text()
    assert told in report.text()
    assert "were not looked at" not in diagnose(open_dataset(tmp_path), (24, 40)).text()


def test_a_dataset_of_which_everything_failed_has_a_page_that_says_why(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    argv = ["--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["build", *argv, "--img-shape", "32", "48"]) == 3
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "out"), "--out", str(page)]) == 1
    assert "<li>FAILED broken.mp4 (decode): not a whole video" in page.read_text()
    assert "<h2>Geometry</h2>" not in page.read_text()


def test_a_share_is_a_part_of_a_whole_bar_and_a_count_of_the_longest():
    assert ['width="65.0"', 'width="0.0"'] == re.findall(
        'width="[0-9.]+"', bars("t", {"zero class": 0.5, "clipped": 0.0}, shares=True)
    )
    assert ">0.0%<" in bars("t", {"clipped": 0.0}, shares=True)
    assert 'width="130.0"' in bars("t", {"a": 4, "b": 2})


def test_pictures_of_sizes_of_their_own_are_not_said_to_be_of_one(tmp_path):
    settings = ["geometry=resize_shorter", "short_side=32", "queries.region=canvas"]
    build_and_report(tmp_path, 5, *settings)
    assert "each picture&#x27;s own, for training at 32 x 48" in (
        (tmp_path / "report.html").read_text()
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1400",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def readout(browser):
    """What the page says of the followed point."""
    found = browser.execute_script("return {...document.getElementById('readout').dataset}")
    return {key: json.loads(value) for key, value in found.items() if key != "view"}


def test_scrubbing_and_clicking_give_the_librarys_numbers(browser, folder):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    browser.get(f"file://{folder / 'report.html'}")
    browser.implicitly_wait(5)
    dataset = open_dataset(folder / "out")
    for episode in [e["id"] for e in page_data(folder)["episodes"]]:
        Select(browser.find_element(By.ID, "episode")).select_by_visible_text(episode)
        browser.execute_script(
            "const s = document.getElementById('scrub'); s.value = 11; "
            "s.dispatchEvent(new Event('input'))"
        )
        assert "window from 8, step 3" in browser.find_element(By.ID, "when").text
        canvas = browser.find_element(By.CSS_SELECTOR, "#stage canvas")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        view = dataset[episode].views["main"]
        point_xy = view.tracks[8, 3, 7]
        size = canvas.size
        x = point_xy[0] / IMG_SHAPE[1] * size["width"] - size["width"] / 2
        y = point_xy[1] / IMG_SHAPE[0] * size["height"] - size["height"] / 2
        ActionChains(browser).move_to_element_with_offset(
            canvas, round(x), round(y)
        ).click().perform()
        said = readout(browser)
        assert (said["index"], said["window"], said["step"]) == (7, 1, 3)
        exact_xy = point_xy.astype(np.float64)
        np.testing.assert_allclose(said["img"], exact_xy, atol=1e-9)
        np.testing.assert_allclose(said["source"], view.geometry.to_source(exact_xy), atol=1e-9)
        np.testing.assert_allclose(said["norm"], normalize(exact_xy, IMG_SHAPE), atol=1e-9)
        browser.find_element(By.ID, "source").click()  # the same point through the inverse
        assert readout(browser) == said
        browser.find_element(By.ID, "source").click()
    assert browser.get_log("browser") == []


def test_the_frozen_tail_is_marked_and_keys_work(browser, folder):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(f"file://{folder / 'report.html'}")
    browser.execute_script(
        "const s = document.getElementById('scrub'); s.value = s.max; "
        "s.dispatchEvent(new Event('input'))"
    )
    when = browser.find_element(By.ID, "when")
    assert "frozen tail" in when.text
    canvas = browser.find_element(By.CSS_SELECTOR, "#stage canvas")
    canvas.send_keys("n")
    assert readout(browser)["index"] == 0
    at = int(browser.find_element(By.ID, "scrub").get_attribute("value"))
    canvas.send_keys(Keys.ARROW_LEFT)
    assert int(browser.find_element(By.ID, "scrub").get_attribute("value")) == at - 1


def test_views_of_other_shapes_stand_undistorted_side_by_side(browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    for name, shape in (("tall", (90, 50)), ("wide", (48, 120))):
        for folder in "ab":
            write_video(tmp_path / "videos" / folder / f"{name}.mp4", count=9, shape=shape)
    argv = ["--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--quiet"]
    settings = ["queries.grid=[2, 3]", "tracker.horizon=8", "store.frames.codec=none"]
    assert main(["build", *settings, *argv, "--img-shape", "32", "48"]) == 0
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report.html")]) == 0
    browser.get(f"file://{tmp_path / 'report.html'}")
    for shapes in ([(32, 48), (32, 48)], [(90, 50), (48, 120)]):
        pictures = browser.find_elements(By.CSS_SELECTOR, "#stage canvas")
        assert len({picture.rect["y"] for picture in pictures}) == 1
        for picture, (height, width) in zip(pictures, shapes, strict=True):
            shown = picture.rect["width"] / picture.rect["height"]
            assert shown == pytest.approx(width / height, rel=0.02)
        browser.find_element(By.ID, "source").click()
    assert "no pictures are stored" in browser.find_element(By.ID, "when").text
    for picture, name in zip(pictures, ("tall", "wide"), strict=True):
        picture.send_keys("n")  # follows a point of the picture that has the focus
        assert browser.find_element(By.ID, "readout").text.startswith(f"{name}, point 0,")
    Select(browser.find_element(By.ID, "view")).select_by_visible_text("tall")
    assert "No point followed" in browser.find_element(By.ID, "readout").text


def test_a_column_of_one_value_is_said_once(browser, folder):
    browser.get(f"file://{folder / 'report.html'}")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#episodes th')].filter(h => !h.hidden)"
        ".map(h => h.textContent)"
    )
    assert "frames" in shown
    assert "view" not in shown
    said = browser.execute_script("return document.getElementById('same').textContent")
    assert said.startswith("The same in every row: view main, turned none")


def test_a_phone_shows_the_film_without_scrolling(browser, folder):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(f"file://{folder / 'report.html'}")
        box = browser.execute_script(
            "return document.querySelector('#stage canvas').getBoundingClientRect().toJSON()"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert box["top"] > 0
    assert box["bottom"] < 844


def test_the_table_searches_and_sorts(browser, folder):
    from selenium.webdriver.common.by import By

    browser.get(f"file://{folder / 'report.html'}")

    def lengths():
        cells = browser.find_elements(By.CSS_SELECTOR, "#episodes tbody td:nth-child(3)")
        return [int(cell.text) for cell in cells]

    frames = browser.find_element(By.XPATH, "//th/button[text()='frames']")
    frames.click()
    assert lengths() == [11, 20]
    frames.click()
    assert lengths() == [20, 11]
    browser.find_element(By.ID, "search").send_keys("tall")
    assert lengths() == [11]


def test_the_table_sorts_by_value(browser, folder, tmp_path):
    from selenium.webdriver.common.by import By

    page = (folder / "report.html").read_text()
    data = page_data(folder)
    row = data["rows"][0]
    data["rows"] = [
        [*row[:3], shape, row[4], row[5], moved, *row[7:]]
        for shape, moved in (("128 x 64", 0.19), ("48 x 64", 0.052), ("480 x 20", ""))
    ]
    packed = json.dumps(data).replace("<", "\\u003c")
    old = re.search(r'id="data">(.*?)</script>', page).group(1)
    (tmp_path / "report.html").write_text(page.replace(old, packed))
    browser.get(f"file://{tmp_path / 'report.html'}")

    def cells(column):
        found = browser.find_elements(By.CSS_SELECTOR, f"#episodes tbody td:nth-child({column})")
        return [cell.text for cell in found]

    browser.find_element(By.XPATH, "//th/button[text()='source']").click()
    assert cells(4) == ["48 x 64", "128 x 64", "480 x 20"]
    browser.find_element(By.XPATH, "//th/button[text()='px/step']").click()
    assert cells(7) == ["", "0.052", "0.19"]


def test_a_printed_page_fits_its_paper_in_dark_ink(browser, folder):
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    paper = {"width": 740, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
    try:
        browser.get(f"file://{folder / 'report.html'}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 740
        ink = browser.execute_script("return getComputedStyle(document.body).color")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert ink == "rgb(0, 0, 0)"


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_runs_over_a_phones_screen_and_words_stand_out(browser, folder, tmp_path, dark):
    page = (folder / "report.html").read_text()
    long = "a-very-long-name-" * 9
    (tmp_path / "report.html").write_text(page.replace("<option>", f"<option>{long}"))
    screen = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        browser.get(f"file://{tmp_path / 'report.html'}")
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        colors = browser.execute_script(
            "const s = getComputedStyle(document.documentElement);"
            "return ['paper', 'panel', 'ink', 'faint', 'accent', 'bad']"
            ".map((name) => s.getPropertyValue('--' + name).trim())"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    *under, ink, faint, accent, bad = map(rgb, colors)
    for paper in under:
        assert min(contrast(word, paper) for word in (ink, faint, accent, bad)) >= 4.5
    # Tiles with numbers on them, at their darkest.
    assert contrast(ink, 0.45 * accent + 0.55 * under[1]) >= 4.5


def rgb(color):
    digits = color.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    return np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255


def contrast(one, other):
    """WCAG 2's ratio of two sRGB colours in [0, 1]."""

    def luminance(color):
        linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_dataset_that_cannot_be_read_has_a_page_that_says_so(tmp_path):
    sample_dataset(tmp_path / "ds", Hdf5Store(tmp_path / "ds"), [Sample("a")])
    (tmp_path / "ds" / "episodes" / "a.hdf5").write_bytes(b"x")
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "ds"), "--out", str(page)]) == 1
    assert "is damaged" in page.read_text()
    page.write_text("an earlier page")
    assert main(["report", str(tmp_path / "ds"), "--out", str(page)]) == 1
    assert page.read_text() == "an earlier page"
