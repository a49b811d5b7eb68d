"""What to keep beside a checkpoint: enough to decode its predictions on a robot.

Needs pydantic, nothing heavier: no numpy for single points, arrays as they come.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.affine import AxisAffine, Points, swap_xy
from schemas.base import Record, Sealed, Shape, Side
from schemas.dataset import Camera, QuerySpec
from schemas.geometry import Letterbox, oriented_shape

Vector = Annotated[tuple[float, ...], Field(strict=False)]


class ArrayStats(Record):
    """Exact per-dimension statistics of a pass-through array over all its finite rows."""

    count: Side
    mean: Vector
    std: Vector
    min: Vector
    max: Vector


class InferenceView(Camera):
    """One camera as the model saw it in training."""

    coded_shape: Shape = Field(description="(H, W) of a live frame, before orientation")
    fps: float | None = Field(default=None, gt=0)
    queries_rc: tuple[Annotated[tuple[float, float], Field(strict=False)], ...] = Field(
        strict=False, description="query points (row, col) in [-1, 1]; AMPLIFY's init_queries"
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
        self.meta = meta
        self._views = {view.name: view for view in meta.views}

    @classmethod
    def load(cls, path: str | Path) -> Decoder:
        """Read the JSON that ``letterset export --to inference`` wrote.

        Raises OSError, and ValueError naming the file when it is another or was changed since.
        """
        try:
            return cls(InferenceMeta.model_validate_json(Path(path).read_bytes()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            what = ".".join(map(str, first["loc"])) or "file"
            raise ValueError(
                f"{path} is not what letterset export --to inference wrote: {what}: "
                f"{first['msg'].removeprefix('Value error, ')}; export it again"
            ) from None

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
        """Raise ValueError when a live frame's (H, W) is not the view's; see :meth:`refit`."""
        expected = self.view(view).coded_shape
        got = tuple(int(side) for side in coded_shape[:2])
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
    ) -> Decoder:
        """Return a decoder for a camera whose resolution (H, W) changed; never done silently.

        ``sample_aspect_ratio`` is (1, 1) unless given.  Raises ValueError for geometries that are
        no letterbox, and when pixels were not square and it is not said what they are now.
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
        shape = oriented_shape(old.orientation, coded_shape)
        box = Letterbox.fit(shape, self.meta.img_shape, sample_aspect_ratio or (1, 1))
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


def _moved(point_rc: tuple[float, float], old: Letterbox, new: Letterbox) -> tuple[float, float]:
    """Keep a normalized (row, col) point at its place within the content."""
    fraction = AxisAffine.normalization(old.source_shape)(old.decode(swap_xy(point_rc)))
    return swap_xy(new.encode((~AxisAffine.normalization(new.source_shape))(fraction)))
