"""What the headers of a source tell of its views, before anything is built."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from builder.canvas.frame_rates import RATES_FROM, FrameRates
from builder.core.errors import SourceError
from builder.core.messages import count, way_up
from builder.core.spacing import spread
from builder.inputs.streams import StreamInfo
from builder.sources.base import EpisodeRef, Source

_SHOWN_SHAPES = 6


@dataclass
class ViewHeaders:
    """One view of many episodes: how many have which upright shape (H, W), and the like."""

    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    rates: FrameRates = field(default_factory=FrameRates)
    frames: Counter[int] = field(default_factory=Counter)
    ways_up: Counter[str] = field(default_factory=Counter)

    def add(self, info: StreamInfo) -> None:
        """Count the view of an episode."""
        self.shapes[info.source_shape] += 1
        self.rates.add(info.fps)
        self.frames[info.num_frames] += 1
        self.ways_up[way_up(info.orientation, info.orientation_from)] += 1

    def text(self) -> str:
        """Say it in a line; of several values how many episodes have each, or their range."""
        several = len(self.shapes) > 1
        shown = [
            f"{f'{times} of ' if several else ''}{height} x {width}"
            for (height, width), times in self.shapes.most_common(_SHOWN_SHAPES)
        ]
        more = len(self.shapes) - len(shown)
        shapes = f"{', '.join(shown)}{f' and {more} more' if more else ''} (H x W)"
        least, most = min(self.frames), max(self.frames)
        frames = count(most, "frame") if least == most else f"{least} to {most} frames"
        return ", ".join([shapes, frames, f"{self.rates.text()} fps", *self.ways_up])


@dataclass
class Headers:
    """What episodes spread evenly over a source have: their views by name."""

    views: dict[str, ViewHeaders] = field(default_factory=dict)
    rates: FrameRates = field(default_factory=FrameRates)
    opened: int = 0
    problems: tuple[str, ...] = ()
    """Why others cannot be opened."""


def read_headers(source: Source, refs: Sequence[EpisodeRef], episodes: int = RATES_FROM) -> Headers:
    """Open so many episodes, spread evenly, without decoding."""
    found, problems = Headers(), []
    for at in spread(len(refs), episodes):
        try:
            with source.open(refs[at]) as episode:
                infos = {name: stream.info for name, stream in episode.views.items()}
        except SourceError as error:
            problems.append(str(error))
            continue
        found.opened += 1
        for name, info in infos.items():
            found.views.setdefault(name, ViewHeaders()).add(info)
            found.rates.add(info.fps)
    found.problems = tuple(problems)
    return found
