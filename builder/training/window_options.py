"""The options of a WindowDataset: one strict record."""

from __future__ import annotations

from textwrap import fill
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from builder.core.errors import ConfigError
from builder.core.explain import explain
from schemas.base import Record, Shape, Side
from schemas.dataset import Name


def _two_names(split: str) -> str:
    if len(parts := split.split("/")) != 2 or not all(parts):
        raise ValueError(f"expected FILE/PART, for example {'default/' + (split or 'train')!r}")
    return split


class WindowOptions(Record):
    """Options of :class:`builder.training.WindowDataset`; defaults are AMPLIFY's sample."""

    img_shape: Shape | None = Field(
        default=None, description="canvas (H, W) of the samples, when not the stored one"
    )
    views: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="stored views, in the model's order; default: those all episodes share, with "
        "missing='mask' all that were asked for or are there",
    )
    view_map: dict[Name, Name] | None = Field(
        default=None,
        min_length=1,
        description="in place of views: the model's name of each, in its order, to the stored name",
    )
    missing: Literal["error", "skip", "mask"] = Field(
        default="error", description="episodes without one of the views"
    )
    horizon: Side | None = Field(default=None, description="steps read, at most the stored ones")
    first_step: Annotated[int, Field(ge=0)] = Field(
        default=0, description="step of the stored windows that becomes step 0"
    )
    resample: Side | None = Field(
        default=None, description="interpolate the steps read to this many"
    )
    method: Literal["linear", "spline"] = Field(
        default="linear", description="interpolation of resample; spline needs scipy"
    )
    points: Side | None = Field(
        default=None, description="number of points, evenly chosen by index"
    )
    history: Side = Field(default=1, description="frames up to and including step 0")
    stride: Side = Field(default=1, description="use every n-th stored window")
    tail: Literal["exclude", "mask", "include"] = Field(
        default="exclude", description="windows that run past the last frame"
    )
    images: Literal["uint8", "float", "none"] = Field(
        default="uint8", description="frames as uint8 or as float32 in [0, 1], or none"
    )
    conf: bool = Field(
        default=False,
        description="the tracker's confidence too, to weigh the loss with: conf (V, horizon, N)",
    )
    where: str | None = Field(
        default=None,
        description="filter over the columns of letterset stats, e.g. motion > 1 and vis > 0.5",
    )
    split: Annotated[str, AfterValidator(_two_names)] | None = Field(
        default=None, description="<file>/<split>, for example default/train"
    )
    damaged: Literal["error", "skip"] = Field(
        default="error", description="episodes that turn out damaged; skip draws another sample"
    )
    verify: bool = Field(
        default=False, description="compare all digests of an episode when it is first read (slow)"
    )
    tracks: Name | None = Field(
        default=None, description="layer whose tracks replace the dataset's own"
    )
    layers: tuple[Name, ...] = Field(
        default=(), strict=False, description="layers whose arrays are added to samples"
    )
    arrays: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        description="pass-through arrays of episodes and views; default: all of episodes, and "
        "what layers add to views",
    )
    proprioception: tuple[Name, ...] = Field(
        default=(),
        strict=False,
        description="arrays whose rows at step 0, joined, are the sample's proprioception; "
        "AMPLIFY's on LIBERO is joint_states, gripper_states",
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of the augmentation")

    @model_validator(mode="after")
    def _one_way_to_name_views(self) -> WindowOptions:
        if self.views and self.view_map:
            raise ValueError("give views or view_map, not both")
        if self.views and len({*self.views}) < len(self.views):
            raise ValueError(f"views names one twice: {list(self.views)}; view_map can repeat one")
        if self.horizon == 1 and (self.resample or 1) > 1:
            raise ValueError(f"one step cannot be resampled to {self.resample}: read 2 or more")
        return self

    @property
    def stored_views(self) -> dict[str, str] | None:
        """Model's name to stored name, in the model's order; None when not chosen."""
        if self.views:
            return {name: name for name in self.views}
        return self.view_map


def given_options(options: WindowOptions | None, changes: dict[str, Any]) -> WindowOptions:
    """Return options with some fields changed; raises ConfigError that suggests the near name."""
    given = options.model_dump(exclude_unset=True) if options else {}
    try:
        return WindowOptions.model_validate({**given, **changes})
    except ValidationError as error:
        raise ConfigError(explain(error, WindowOptions, write=repr)) from None


def options_help() -> str:
    """List all options: name, default, and what it chooses."""
    return "\n".join(
        fill(f"{name}={field.default!r}: {field.description}", 96, subsequent_indent="    ")
        for name, field in WindowOptions.model_fields.items()
    )
