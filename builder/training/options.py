"""What a training sample holds: one strict record of options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from builder.core.errors import ConfigError
from builder.core.messages import explain
from schemas.base import Record, Shape, Side
from schemas.dataset import Name


class WindowOptions(Record):
    """Options of :class:`builder.training.WindowDataset`; defaults are AMPLIFY's sample.

    ``views`` are the stored names, in the model's order (default: those all episodes share; with
    ``missing="mask"`` all that were asked for or are there);
    ``view_map`` renames, model's name to stored name, and gives the order when it is given.
    """

    img_shape: Shape | None = Field(default=None, description="canvas other than the stored one")
    views: tuple[Name, ...] | None = Field(default=None, strict=False, min_length=1)
    view_map: dict[Name, Name] | None = Field(default=None, min_length=1)
    missing: Literal["error", "skip", "mask"] = Field(
        default="error", description="episodes without one of the views"
    )
    horizon: Side | None = Field(default=None, description="steps read, at most the stored ones")
    first_step: Annotated[int, Field(ge=0)] = Field(
        default=0, description="step of the stored windows that becomes step 0"
    )
    resample: Side | None = Field(default=None, description="interpolate those to so many steps")
    method: Literal["linear", "spline"] = "linear"
    points: Side | None = Field(default=None, description="points, evenly chosen by index")
    history: Side = Field(default=1, description="frames up to and including step 0")
    stride: Side = Field(default=1, description="use every n-th stored window")
    tail: Literal["exclude", "mask", "include"] = Field(
        default="exclude", description="windows that run past the last frame"
    )
    images: Literal["uint8", "float", "none"] = "uint8"
    where: str | None = Field(
        default=None,
        description="filter over the columns of letterset stats, e.g. motion > 1 and vis > 0.5",
    )
    split: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")] | None = Field(
        default=None, description="<file>/<split>, for example default/train"
    )
    damaged: Literal["error", "skip"] = Field(
        default="error", description="episodes that turn out damaged; skip draws another sample"
    )
    verify: bool = Field(
        default=False, description="compare digests when an episode is first read: slow, certain"
    )
    tracks: Name | None = Field(
        default=None, description="layer whose tracks take the place of the dataset's own"
    )
    layers: tuple[Name, ...] = Field(
        default=(), strict=False, description="layers whose arrays come along"
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
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the augmentation")

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
        raise ConfigError(explain(error, known=list(WindowOptions.model_fields))) from None
