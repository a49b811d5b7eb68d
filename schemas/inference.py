"""What to keep beside a checkpoint: enough to decode its predictions on a robot.

Needs pydantic, nothing heavier: no numpy for single points, arrays as they come.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.affine import AxisAffine, Points, swap_xy
from schemas.base import LATER, Record, Sealed, Shape, Side, strict_json
from schemas.config import TrackerPart
from schemas.dataset import Camera, Name, QuerySpec, TrackerInfo
from schemas.geometry import Letterbox, Stretch, oriented_shape

# Two aspects are one within this: sides are whole pixels, and often multiples of 8.
_SAME_ASPECT = 0.01

Vector = Annotated[tuple[float, ...], Field(strict=False)]


class ArrayStats(Record):
    """Exact per-dimension statistics of a pass-through array over all its finite rows."""

    count: Side
    mean: Vector
    std: Vector
    min: Vector
    max: Vector


class LiveTracking(Record):
    """How the windows of training were tracked, so that those of a live camera are the same."""

    tracker: TrackerInfo = Field(description="which tracker, with the hash of its weights")
    settings: TrackerPart = Field(description="of the build: horizon, start_every, input, ...")
    fps: float | None = Field(default=None, gt=0, description="source.fps of the build")
    frame_step: Side = Field(default=1, description="source.frame_step of the build")
    reference_view: Name | None = Field(
        default=None, description="its frames are the clock; null: the source had one of its own"
    )
    tolerance_seconds: float | None = Field(
        default=None, ge=0, description="between a frame of the clock and a view's own"
    )


class InferenceView(Camera):
    """One camera as the model saw it in training."""

    coded_shape: Shape = Field(description="(H, W) of a live frame, before orientation")
    fps: float | None = Field(default=None, gt=0)
    queries_rc: tuple[Annotated[tuple[float, float], Field(strict=False)], ...] = Field(
        strict=False, description="query points (row, col) in [-1, 1]; AMPLIFY's init_queries"
    )
    tracked: Annotated[Stretch | None, LATER] = Field(
        default=None,
        description="of geometry: resize_shorter: the size its frames were tracked in; geometry "
        "is then onto img_shape. null: they are the same",
    )


class InferenceMeta(Sealed):
    """The one file beside a checkpoint; views in the order the model takes them."""

    format_version: Literal[1] = 1
    img_shape: Shape
    horizon: Side
    color_order: Literal["rgb"] = "rgb"
    queries: QuerySpec
    views: tuple[InferenceView, ...] = Field(strict=False, min_length=1)
    stats: dict[str, ArrayStats] = Field(default_factory=dict)
    live: Annotated[LiveTracking | None, LATER] = Field(
        default=None, description="null: it was not recorded; only pictures and points go live"
    )

    @model_validator(mode="after")
    def _views_agree(self) -> InferenceMeta:
        names = [view.name for view in self.views]
        if len(set(names)) != len(names):
            raise ValueError(f"view names must differ, got {names}")
        for view in self.views:
            if view.geometry.img_shape != self.img_shape:
                raise ValueError(
                    f"view {view.name} is placed on {view.geometry.img_shape}, "
                    f"but img_shape is {self.img_shape}"
                )
        return self


class Decoder:
    """Decodes predictions to source pixels, view by view.

    Made from an :class:`InferenceMeta`, or from its file with :meth:`load`.
    """

    def __init__(self, meta: InferenceMeta) -> None:
        if not isinstance(meta, InferenceMeta):
            raise TypeError(
                f"expected an InferenceMeta, got {type(meta).__name__}; of the file that letterset "
                "export --to inference wrote it is Decoder.load(path).meta"
            )
        self.meta = meta
        self._views = {view.name: view for view in meta.views}

    def __repr__(self) -> str:
        views = ", ".join(f"{view.name!r} {view.coded_shape}" for view in self.meta.views)
        return f"Decoder(img_shape={self.meta.img_shape}, horizon={self.meta.horizon}; {views})"

    @classmethod
    def load(cls, path: str | Path) -> Decoder:
        """Read the JSON that ``letterset export --to inference`` wrote.

        Raises OSError, and ValueError naming the file when it is another or was changed since.
        """
        try:
            text = Path(path).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: there is no such file; letterset export DATASET FILE --to inference "
                "writes one"
            ) from None
        except IsADirectoryError:
            raise IsADirectoryError(
                f"{path} is a folder; expected the file that letterset export --to inference wrote"
            ) from None
        try:
            strict_json(text)
            return cls(InferenceMeta.model_validate_json(text))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            what = ".".join(map(str, first["loc"])) or "file"
            said = first["msg"].removeprefix("Value error, ")
            why = f"it has no {what}" if first["type"] == "missing" else f"{what}: {said}"
        except JSONDecodeError as error:
            why = f"it is no JSON ({error})" if text.strip() else "it is empty"
        except ValueError as error:
            why = str(error)
        raise ValueError(
            f"{path} is not what letterset export --to inference wrote: {why}; export it again"
        )

    def save(self, path: str | Path) -> None:
        """Write the JSON that :meth:`load` reads, such as of a refit.

        Raises FileExistsError when there is one: training's record is not replaced.
        """
        try:
            file = Path(path).open("x", encoding="utf-8")
        except FileExistsError:
            raise FileExistsError(f"{path} exists already: choose another name") from None
        with file:
            file.write(self.meta.model_dump_json(indent=1))

    def view(self, name: str | None = None) -> InferenceView:
        """Return a view by name, or the only one; raises KeyError that lists them."""
        if name is None and len(self._views) == 1:
            return self.meta.views[0]
        if name not in self._views:
            wrong = "say which view" if name is None else f"no view {name!r}"
            raise KeyError(f"{wrong}; there are {list(self._views)}")
        return self._views[name]

    def decode(
        self, prediction: Points, view: str | None = None, order: Literal["rc", "xy"] = "rc"
    ) -> Points:
        """Map normalized points to (x, y) pixels of the upright source frame.

        ``prediction`` is (..., 2) in [-1, 1], (row, col) as models speak it, or (x, y) with
        ``order="xy"``: a numpy array, a torch tensor, or one tuple.  Not clipped or rounded.
        Raises ValueError for another order.
        """
        if order not in ("rc", "xy"):
            raise ValueError(f"order is 'rc', (row, col), or 'xy', (x, y); got {order!r}")
        norm_xy = swap_xy(prediction) if order == "rc" else prediction
        return self.view(view).geometry.decode(norm_xy)

    def check_frame(self, coded_shape: Any, view: str | None = None) -> None:
        """Raise ValueError when a live frame's (H, W) is not the view's; see :meth:`refit`.

        ``coded_shape`` is the shape of a frame (H, W, ...), or the frame itself, an array.
        """
        expected = self.view(view).coded_shape
        got = _resolution(coded_shape)
        if got != expected:
            raise ValueError(
                f"view {self.view(view).name}: the camera gives frames of (H, W) = {got}, expected "
                f"{expected}. If its resolution was changed on purpose, use decoder.refit"
            )

    def refit(
        self,
        coded_shape: tuple[int, int],
        view: str | None = None,
        sample_aspect_ratio: tuple[int, int] | None = None,
        allow_aspect_change: bool = False,
    ) -> Decoder:
        """Return a decoder for a camera whose resolution (H, W) changed; never done silently.

        ``sample_aspect_ratio`` is (1, 1) unless given.  Raises ValueError for geometries that are
        no letterbox, when pixels were not square and it is not said what they are now, and, unless
        ``allow_aspect_change``, for a picture of another aspect: its bars are none that the model
        saw in training.
        """
        old = self.view(view)
        if not isinstance(old.geometry, Letterbox):
            raise ValueError(
                f"view {old.name} is stretched, not letterboxed: it has no refit that keeps aspect"
            )
        if sample_aspect_ratio is None and old.geometry.sample_aspect_ratio != (1, 1):
            raise ValueError(
                f"view {old.name} had pixels of {old.geometry.sample_aspect_ratio}, width to "
                "height: say what they are now, sample_aspect_ratio=(1, 1) for square ones"
            )
        coded_shape = _resolution(coded_shape)
        shape = oriented_shape(old.orientation, coded_shape)
        box = Letterbox.fit(shape, self.meta.img_shape, sample_aspect_ratio or (1, 1))
        if not allow_aspect_change:
            _check_aspect(old, _aspect(old.geometry), coded_shape, _aspect(box))
        queries = old.queries_rc
        if self.meta.queries.region == "content":
            # The grid lies over the picture, so it moves with it.
            queries = tuple(_moved(point, old.geometry, box) for point in queries)
        # Turning is its own inverse as far as shapes go.
        coded = oriented_shape(old.orientation, box.source_shape)
        changed = {"geometry": box, "coded_shape": coded, "queries_rc": queries}
        new = old.model_copy(update=changed)
        views = tuple(new if each.name == old.name else each for each in self.meta.views)
        return Decoder(self.meta.resealed(views=views))


def _resolution(given: Any) -> tuple[int, int]:
    """Return (H, W) of a frame or of its shape; raises ValueError for what is neither."""
    shape = getattr(given, "shape", given)
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(sides) < 2 or not all(_is_whole(side) and side > 0 for side in sides[:2]):
        raise ValueError(
            f"expected a frame, or its (H, W) in whole pixels such as (480, 640), got {shape!r:.80}"
        )
    return operator.index(sides[0]), operator.index(sides[1])


def _is_whole(side: Any) -> bool:
    return hasattr(side, "__index__") and not isinstance(side, bool)


def _check_aspect(
    old: InferenceView, before: float, coded_shape: tuple[int, int], after: float
) -> None:
    """Raise ValueError when the picture of a refitted view has another aspect than before."""
    if abs(after / before - 1) <= _SAME_ASPECT:
        return
    got = tuple(int(side) for side in coded_shape)
    if abs(after * before - 1) <= _SAME_ASPECT:
        what = f"{got} looks like (W, H); shapes are (H, W), so perhaps {got[::-1]} is meant"
    else:
        what = f"{got} is another aspect, {after:.3f} wide to 1 high, than {before:.3f} before"
    raise ValueError(
        f"view {old.name} had (H, W) = {old.coded_shape}: {what}. The model saw no such bars in "
        "training: pass allow_aspect_change=True if the camera really changed so"
    )


def _aspect(box: Letterbox) -> float:
    """Width to height of the picture as it is shown."""
    height, width = box.source_shape
    return width * box.sample_aspect_ratio[0] / (height * box.sample_aspect_ratio[1])


def _moved(point_rc: tuple[float, float], old: Letterbox, new: Letterbox) -> tuple[float, float]:
    """Keep a normalized (row, col) point at its place within the content."""
    fraction = AxisAffine.normalization(old.source_shape)(old.decode(swap_xy(point_rc)))
    return swap_xy(new.encode((~AxisAffine.normalization(new.source_shape))(fraction)))
