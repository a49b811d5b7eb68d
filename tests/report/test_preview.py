"""Preview: what the page shows is what a build would make, and nothing else is written."""

from __future__ import annotations

import re
from contextlib import contextmanager
from html.parser import HTMLParser

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.build.config_file import load_config
from builder.build.episode import Job
from builder.build.executors.base import Executor, Outcome
from builder.cli import main
from builder.core.errors import DatasetError, OutputError, SourceError
from builder.core.spacing import stratified
from builder.dataset.opening import open_dataset
from builder.inputs.streams import Frame, StreamInfo
from builder.report import preview as preview_module
from builder.report.page import figure, page, text
from builder.report.preview import preview, preview_windows
from builder.report.render import render_contact_sheet
from builder.sources.base import Episode, EpisodeRef

IMG_SHAPE = [64, 112]
SHAPES = {"wide": (48, 96), "tall": (96, 48), "also-wide": (48, 96), "square": (64, 64)}


def write_clip(path, shape, frames=6):
    """Red above, green below, and a bright block that moves to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"
        for t in range(frames):
            image = np.zeros((*shape, 3), np.uint8)
            image[: shape[0] // 2, :, 0] = image[shape[0] // 2 :, :, 1] = 200
            image[10:20, 5 + 2 * t : 20 + 2 * t] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, shape in SHAPES.items():
        write_clip(folder / f"{name}.mp4", shape)
    (folder / "broken <b>.mp4").write_bytes(b"no video at all")
    return folder


def config_of(path, *overrides):
    defaults = {"source.path": str(path), "img_shape": IMG_SHAPE, "store.path": "-"}
    return load_config(None, overrides, defaults)


class Outline(HTMLParser):
    """Collect headings, images and everything that refers to somewhere."""

    def __init__(self, source):
        super().__init__()
        self.headings, self.images, self.links, self.texts = [], [], [], []
        self.chosen = 0
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(attrs)
        self.chosen += "chosen" in attrs.get("class", "").split()
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def shown(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "preview.html"
    failures = preview(config_of(videos), out, count=3)
    return failures, out


def test_the_page_stands_alone_and_is_accessible(shown):
    _, out = shown
    source = out.read_text(encoding="utf-8")
    outline = Outline(source)
    assert all(link.startswith("data:image/jpeg;base64,") for link in outline.links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", source)
    assert "prefers-color-scheme: dark" in source
    assert '<html lang="en">' in source
    assert len(outline.images) == 3 * 6
    assert all(image["alt"] and image["width"] and image["height"] for image in outline.images)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)


def test_different_shapes_are_there_and_the_chosen_orientation_is_marked(shown):
    outline = Outline(shown[1].read_text(encoding="utf-8"))
    words = " ".join(outline.texts)
    assert outline.chosen == 3
    for size in ("48 x 96 px", "96 x 48 px", "64 x 64 px"):
        assert size in words
    assert "3 of 5 episodes" in words
    assert "letterboxed to 64 x 112" in words


def test_failures_are_named_and_escaped(shown):
    failures, out = shown
    assert len(failures) == 1
    assert failures[0].startswith("FAILED broken <b>.mp4 (decode): ")
    source = out.read_text(encoding="utf-8")
    assert "broken &lt;b&gt;.mp4 (decode)" in source
    assert "broken <b>" not in source


def test_nothing_else_is_written(shown):
    assert [path.name for path in shown[1].parent.iterdir()] == ["preview.html"]


def test_png(videos, tmp_path):
    out = tmp_path / "preview.PNG"
    assert preview(config_of(videos, "source.exclude=[broken*]"), out, count=1) == []
    image = cv2.imread(str(out))
    assert image.shape[1] > 3 * preview_module.PICTURE_PX
    assert image.shape[0] < 2 * preview_module.PICTURE_PX


def preview_of(videos, name, *overrides):
    config = config_of(videos, *overrides)
    ref = EpisodeRef(id=name, path=f"{name}.mp4", locator=f"{name}.mp4")
    signs = []
    [made] = preview_module.preview_windows(Job(config, ref), lambda *sign: signs.append(sign))
    return made, signs


def test_candidates_are_the_stored_frame_turned(videos):
    made, _ = preview_of(videos, "wide")
    assert made.orientation == "none"
    assert list(made.candidates) == ["none", "hflip", "vflip", "rot180"]
    for turn, image in made.candidates.items():
        height, width = image.shape[:2]
        assert height * 2 == width
        red_above = image[: height // 3, width // 2 :, 0].mean() > 150
        block_left = image[:, : width // 4].min(axis=-1).max() > 200
        assert red_above == (turn in ("none", "hflip"))
        assert block_left == (turn in ("none", "vflip"))


def test_a_quarter_turn_is_compared_with_its_like(videos):
    made, _ = preview_of(videos, "wide", "source.orientation=rot90")
    assert made.orientation == "rot90"
    assert list(made.candidates) == ["rot90", "rot270", "transpose", "antitranspose"]
    assert all(image.shape[0] == 2 * image.shape[1] for image in made.candidates.values())
    assert made.facts["Source"].startswith("96 x 48 px")
    # Clockwise: what was above is now at the right.
    chosen = made.candidates["rot90"]
    assert chosen[:, -20:, 0].mean() > 150 > chosen[:, :20, 0].mean()


def test_facts_and_pictures_have_the_builds_numbers(videos):
    made, signs = preview_of(videos, "wide", "queries.grid=[4, 6]")
    assert made.facts["Picture"].startswith("56 x 112 px of 64 x 112; bars: 4 px above, 4 below")
    assert made.facts["Scale"] == "1.1667 in x, 1.1667 in y"
    assert (made.start, made.steps) == (0, 6)
    assert signs[-1] == (6, 6)
    zoom = preview_module.PICTURE_PX / 112
    assert made.grid.shape == made.tracks.shape == (round(64 * zoom), 512, 3)
    # A query point in the middle of the first cell, in the colour of its row.
    x, y = np.array([112 / 12, 4 + 56 / 8]) * zoom
    dot = made.grid[int(y), int(x)]
    assert dot[2] == dot.max() > 100


class Counting:
    """A source that counts the frames it is asked for."""

    def __init__(self, length):
        self.asked, self.length = 0, length
        self.info = StreamInfo(coded_shape=(40, 60), num_frames=length)

    def __iter__(self):
        for t in range(self.length):
            self.asked += 1
            yield Frame(np.full((40, 60, 3), t % 250, np.uint8), t / 10)

    @contextmanager
    def open(self, ref):
        yield Episode(views={"a": self, "b": self})


@pytest.mark.parametrize(("length", "start", "steps"), [(1, 0, 1), (20, 4, 16), (90, 30, 16)])
def test_no_more_is_decoded_than_one_window_needs(monkeypatch, length, start, steps):
    source = Counting(length)
    monkeypatch.setattr(preview_module, "open_source", lambda config: source)
    job = Job(config_of("-"), EpisodeRef(id="x", path="x"))
    first, second = preview_module.preview_windows(job, lambda *sign: None)
    assert (first.view, second.view) == ("a", "b")
    assert (first.start, first.steps) == (start, steps)
    assert source.asked == 2 * (start + steps)
    assert preview_module.probe_episode(job, lambda *sign: None) == ((40, 60), (40, 60))


def test_long_videos_are_not_read_to_the_middle(monkeypatch):
    source = Counting(100_000)
    monkeypatch.setattr(preview_module, "open_source", lambda config: source)
    preview_module.preview_windows(
        Job(config_of("-"), EpisodeRef(id="x", path="x")), lambda *sign: None
    )
    assert source.asked == 2 * (preview_module.MAX_SKIPPED + preview_module.MAX_STEPS)


def test_bad_places_are_named_before_any_work(videos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*page\.html: Not a directory"):
        preview(config_of(videos), tmp_path / "file" / "page.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder\.html: .*; name a file"):
        preview(config_of(videos), tmp_path / "folder.html")
    with pytest.raises(SourceError, match="no such file"):
        preview(config_of(tmp_path / "missing"), tmp_path / "page.html")


def test_a_source_of_nothing_but_bad_files_gives_no_page(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no")
    for name in ("page.html", "page.png"):
        with pytest.raises(SourceError, match=r"not written\nFAILED bad.mp4 \(decode\)"):
            preview(config_of(tmp_path), tmp_path / name)
        assert not (tmp_path / name).exists()


class Failing(Executor):
    """Probes every episode, and fails to draw one in a way that nobody foresaw."""

    def run(self, function, tasks):
        for task in tasks:
            try:
                if function is preview_windows and "tall" in task.ref.path:
                    raise ZeroDivisionError("odd picture")
                yield Outcome(task, function(task, lambda done, total: None))
            except (SourceError, ZeroDivisionError) as error:
                yield Outcome(task, error=error)


def test_no_input_ends_it_whatever_it_raises(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(preview_module, "open_executor", lambda *parts: (Failing(), None))
    own = {"source.path": str(videos), "img_shape": IMG_SHAPE, "store.path": "-"}
    failures = preview(load_config(None, [], own), tmp_path / "p.html", count=8)
    [told] = [line for line in failures if "odd picture" in line]
    assert told.startswith("FAILED tall.mp4 (internal): ZeroDivisionError: odd picture (a bug")
    assert "wide.mp4" in (tmp_path / "p.html").read_text()
    with pytest.raises(OutputError, match="full"):
        Outcome(None, error=OutputError("the disk is full")).failure()


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(0, 8))
def test_stratified_shows_as_many_values_as_it_can(values, count):
    shapes = {str(k): value for k, value in enumerate(values)}
    chosen = stratified(shapes, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(values))
    seen = [shapes[key] for key in chosen]
    assert len(set(seen)) == min(len(set(values)), count)
    # Nobody gets two more than another who still has some.
    for value in set(values):
        if seen.count(value) < values.count(value):
            assert seen.count(value) >= max(map(seen.count, seen), default=0) - 1


def test_page_escapes():
    assert text("<a & 'b' \udcff>") == "&lt;a &amp; &#x27;b&#x27; \\udcff&gt;"
    assert b"<title>&lt;x&gt;</title>" in page("<x>", [])
    assert 'alt="&quot;x&quot;"' in figure(np.zeros((2, 3, 3), np.uint8), '"x"', "")


def test_contact_sheet(videos, tmp_path):
    argv = ["build", "--source", str(videos), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*argv, "--img-shape", "64", "112", "source.exclude=[broken*]"]) == 0
    dataset = open_dataset(tmp_path / "out")
    out = tmp_path / "picture.png"
    render_contact_sheet(dataset, out, episodes=2, columns=3, tile_px=224)
    image = cv2.imread(str(out))
    assert image.shape[1] == 12 + 3 * (224 + 12)
    # Two rows of bars, and the first tile begins with the first episode's first row.
    assert 2 * 128 < image.shape[0] < 2 * 200
    assert (image[13:40, 13:40].reshape(-1, 3) == (0, 0, 0)).all(axis=1).any()
    dataset.ids = ()
    with pytest.raises(DatasetError, match="no episodes"):
        render_contact_sheet(dataset, out)
