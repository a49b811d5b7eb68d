"""What of a source is used: the settings that every source has."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from builder.core.errors import SourceError
from builder.inputs.listing import VIDEO_SUFFIXES, has_suffix, matches
from builder.inputs.picture_arrays import FloatPictures
from schemas.base import Record, Side
from schemas.geometry import Orientation


def _of_detector(value: Any) -> Any:
    return {"detector": value} if isinstance(value, str) else value


Seconds = Annotated[float, Field(ge=0)]
_GLOB = re.compile(r"[*?\[/]")


class Scenes(Record):
    """How shots are told apart, by PySceneDetect."""

    detector: Literal["adaptive", "content"] = Field(
        default="adaptive",
        description="adaptive: what changes more than the frames around it, which moving cameras "
        "do not; content: what changes by more than the threshold",
    )
    threshold: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of that detector; default: its own"
    )


class Clips(Record):
    """How episodes are cut into clips, each an episode of its own.

    By ``seconds`` or ``frames``; and at shot changes with ``scenes``, of which long ones are
    cut by these too, where given.
    """

    seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of a clip, on the reference clock"
    )
    frames: Side | None = Field(default=None, description="of a clip, of those that are kept")
    scenes: Annotated[Scenes, BeforeValidator(_of_detector)] | None = Field(
        default=None,
        description="cuts at shot changes, which no window then crosses: adaptive or content; "
        "needs the extra letterset[scenes]",
    )
    overlap: Literal["windows"] | Annotated[int, Field(ge=0)] = Field(
        default="windows",
        description="frames after its end that a clip has too; windows: those that the windows "
        "which begin in it need, so that none is lost",
    )

    @model_validator(mode="after")
    def _one_length(self) -> "Clips":
        given = [self.seconds, self.frames].count(None)
        if given == 0 or (given == 2 and self.scenes is None):
            raise ValueError(
                "it needs one of source.clip.seconds and source.clip.frames, or "
                "source.clip.scenes, or that and one of them"
            )
        return self


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
        default=(),
        strict=False,
        description="ids, paths, positions or ranges like 0:50; where `clip` cuts, positions are "
        "those of whole episodes, ids and paths of these or of clips",
    )
    views: tuple[str, ...] = Field(default=(), strict=False, description="default: all")
    missing_views: Literal["error", "skip", "mask"] = Field(
        default="error",
        description="skip: build an episode with those of `views` it has; mask: record also which "
        "it lacks, so that training sets fill them with zeros and a mask",
    )
    arrays: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="pass-through arrays to keep, each of which must be there; default: all that "
        "have a row per frame, others are left out and told",
    )
    orientation: Orientation | dict[str, Orientation] | None = Field(
        default=None,
        description="turns frames upright: for all views, by view, or by a glob of paths such as "
        "kitchen/*.mp4; a path goes before a glob, a glob before a view",
    )
    frame_step: Side = Field(default=1, description="keep every n-th frame")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="keep the frames nearest to this rate"
    )
    start_seconds: Seconds | None = Field(default=None, description="on the reference clock")
    end_seconds: Seconds | None = Field(default=None, description="exclusive")
    max_frames: Side | None = Field(default=None, description="kept per episode, from its start")
    clip: Clips | None = Field(
        default=None,
        description="cuts each episode into clips: {seconds: 60}, {frames: 1800} or "
        "{scenes: adaptive}",
    )
    reference_view: str | None = Field(
        default=None, description="its frames are the clock; default: the source's, or first view"
    )
    tolerance_seconds: Seconds | None = Field(
        default=None, description="between a tick and a view's frame; default: half a tick"
    )
    licence: str | None = Field(
        default=None, description="of the source's data, when it does not say itself"
    )

    @property
    def turned_paths(self) -> list[str]:
        """The globs of paths that ``orientation`` names; other keys of it are views."""
        keys = [*self.orientation] if isinstance(self.orientation, dict) else []
        return [key for key in keys if _GLOB.search(key) or has_suffix(key, VIDEO_SUFFIXES)]

    def for_path(self, path: str) -> "Selection":
        """Return the settings of one episode: a glob that its path fits turns all its views.

        The path itself goes before globs.  Raises SourceError where these differ about it.
        """
        turns = self.orientation
        if not isinstance(turns, dict) or not (globs := self.turned_paths):
            return self
        found = {glob: turns[glob] for glob in globs if matches(path, (glob,))}
        exact = turns[path] if path in found else None
        if exact is None and len({*found.values()}) > 1:
            said = ", ".join(f"{glob}: {turn}" for glob, turn in found.items())
            raise SourceError(
                f"orientation says {said} of {path}, which fits all of these; make them differ, or "
                f"name this path as well, as it is"
            )
        turn = exact or next(iter(found.values()), None)
        views = {key: turn for key, turn in turns.items() if key not in globs}
        return self.model_copy(update={"orientation": turn or views or None})

    def turned_by_hand(self, view: str) -> Orientation | None:
        """Return the orientation set for a view; None where the source's own is kept.

        Sources pass it on to their videos: some cannot be read without it.
        """
        turn = self.orientation
        return turn.get(view) if isinstance(turn, dict) else turn


class PictureSelection(Selection):
    """Settings of sources that keep pictures as arrays."""

    float_pictures: FloatPictures | None = Field(
        default=None,
        description="what pictures kept as floats hold; default: 0..255 or 0..1, by a look at them",
    )
