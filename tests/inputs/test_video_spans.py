"""Parts of a video file: from wherever they start, the frames that a whole reading gives."""

import numpy as np
import pytest
from media import SHAPE, encode, moving

from builder.core.errors import DecodeError
from builder.inputs.video import VideoStream
from builder.inputs.video_span import VideoSpan

X265 = {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=4:scenecut=0"}
X264 = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
SHARED = {
    "open_gop.mp4": ("libx265", X265),
    "open_gop.ts": ("libx265", X265),
    "open_gop.mkv": ("libx264", X264),
    "open_gop_h264.ts": ("libx264", X264),
    "b_frames.mp4": ("mpeg4", {"g": "10", "bf": "2"}),
    "b_frames.avi": ("mpeg4", {"g": "10", "bf": "2"}),
    "fields.ts": ("mpeg2video", {"g": "10", "bf": "2"}),
    "refreshed.mp4": ("libx264", {"x264-params": "keyint=12:intra-refresh=1:bframes=0"}),
    "refreshed.mkv": ("libx264", {"x264-params": "keyint=12:intra-refresh=1:bframes=0"}),
}
COUNT, LENGTH = 60, 3


def pictures(stream):
    return [frame.image.to_ndarray(format="rgb24") for frame in stream]


@pytest.mark.parametrize("name", SHARED)
def test_a_span_is_the_same_from_every_start(name, tmp_path):
    """Behind a keyframe that was sought, frames may be missing, or not be whole yet."""
    codec, options = SHARED[name]
    rate = 25 if codec == "mpeg2video" else 24
    path = encode(tmp_path / name, moving(COUNT, SHAPE), codec, rate=rate, options=options)
    whole = VideoStream(path)
    times, images = whole.times(), pictures(whole)
    assert len(times) == COUNT
    for start in range(COUNT - LENGTH + 1):
        span = times[start : start + LENGTH]
        found = VideoSpan(path, float(span[0]), span - span[0])
        assert found.info.notes == whole.info.notes
        assert np.array_equal(pictures(found), images[start : start + LENGTH]), start


def test_a_span_beyond_the_file_is_refused(tmp_path):
    path = encode(tmp_path / "short.ts", moving(12, SHAPE))
    with pytest.raises(DecodeError, match=r"no frame at 5\.000 s"):
        VideoSpan(path, 5.0, np.arange(3) / 24)
