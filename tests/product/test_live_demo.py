"""The live demo: a file as a camera, written as a video."""

import sys

import av
import cv2
import numpy as np
import pytest
from media import MATRICES, encode, moving
from test_docs_site import ROOT


def run(monkeypatch, *argv):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import live_demo

    monkeypatch.setattr(sys, "argv", ["live_demo.py", *map(str, argv)])
    live_demo.main()


def test_a_file_is_followed_without_a_screen(tmp_path, monkeypatch, capsys):
    path, out, picture = (tmp_path / name for name in ("a.mp4", "seen.mp4", "last.png"))
    encode(path, moving(22, (90, 160)), rate=20, matrix=MATRICES["rot90"])
    own = ["--out", out, "--picture", picture, "--preset", "fast", "--frames", "20"]
    run(monkeypatch, path, *own)
    with av.open(str(out)) as video:
        frames = list(video.decode(video=0))
    assert len(frames) == 20
    # Upright, with the strip below.
    assert (frames[0].height, frames[0].width) == (160 + 96, 90)
    assert cv2.imread(str(picture)).shape == (160 + 96, 90, 3)
    assert "20.0 fps" in (told := capsys.readouterr().out)
    assert "20 frames, 20 ticks, 5 windows" in told


def test_the_energy_of_motion_is_that_of_what_moved(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from live_demo import energy

    traj = np.zeros((1, 3, 2, 2), np.float32)
    traj[0, :, 0, 1] = [0, 0.1, 0.2]  # 10 px to the right on a canvas of 200 columns
    seen = {"traj": traj, "vis": np.array([[[1, 1], [1, 1], [1, 0]]], np.float32)}
    assert energy(seen, (100, 200)) == pytest.approx((100 + 0 + 100) / 3)
    assert energy({**seen, "vis": 0 * seen["vis"]}, (100, 200)) == 0


def test_a_page_shows_the_newest_picture(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import socket
    from threading import Thread
    from urllib.request import urlopen

    from live_demo import Page

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page, over = Page(port), []
    picture = np.full((40, 60, 3), (200, 30, 10), np.uint8)

    def keep_showing():
        while not over:
            page.show(picture)

    Thread(target=keep_showing, daemon=True).start()
    with urlopen(f"http://127.0.0.1:{port}") as answer:
        data = answer.read(8000)
    over.append(True)
    jpeg = data[data.index(b"\xff\xd8") : data.index(b"\xff\xd9") + 2]
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert abs(shown.astype(int) - picture).max() < 12
