"""The settings that every source has: which episodes, views and frames of it are used."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record, Side
from schemas.geometry import Orientation

Seconds = Annotated[float, Field(ge=0)]


class Selection(Record):
    """Settings that every source has; the ``Config`` of a source extends this model.

    Globs match an episode's path relative to the source, slashes included (``*`` crosses them).
    """

    include: tuple[str, ...] = Field(
        default=(), strict=False, description="globs of paths to build"
    )
    exclude: tuple[str, ...] = Field(
        default=(), strict=False, description="globs of paths to leave out"
    )
    episodes: tuple[str | int, ...] = Field(
        default=(), strict=False, description="ids, paths, positions or ranges like 0:50"
    )
    views: tuple[str, ...] = Field(default=(), strict=False, description="default: all")
    missing_views: Literal["error", "skip", "mask"] = Field(
        default="error",
        description="skip: build an episode with those of `views` it has; mask: record also which "
        "it lacks, so that training sets fill them with zeros and a mask",
    )
    orientation: Orientation | dict[str, Orientation] | None = Field(
        default=None, description="turns frames upright, for all views or by view"
    )
    frame_step: Side = Field(default=1, description="keep every n-th frame")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="keep the frames nearest to this rate"
    )
    start_seconds: Seconds | None = Field(default=None, description="on the reference clock")
    end_seconds: Seconds | None = Field(default=None, description="exclusive")
    max_frames: Side | None = Field(default=None, description="kept per episode, from its start")
    reference_view: str | None = Field(
        default=None, description="its frames are the clock; default: the source's, or first view"
    )
    tolerance_seconds: Seconds | None = Field(
        default=None, description="between a tick and a view's frame; default: half a tick"
    )
    licence: str | None = Field(
        default=None, description="of the source's data, when it does not say itself"
    )

    def turned_by_hand(self, view: str) -> Orientation | None:
        """Return the orientation set for a view; None where the source's own is kept.

        Sources pass it on to their videos: some cannot be read without it.
        """
        turn = self.orientation
        return turn.get(view) if isinstance(turn, dict) else turn
