"""Layers: what is added to a dataset later, beside its episodes, without rewriting them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from schemas.base import SHA256, Record, Sealed, Side
from schemas.dataset import ArrayMeta, EpisodeId, Name, QuerySpec, TrackerInfo


class TrackSet(Record):
    """How the tracks of a layer were made; it replaces the dataset's own when it is opened."""

    horizon: Side
    start_every: Side
    mode: Literal["reinit", "episode"]
    queries: QuerySpec
    tracker: TrackerInfo
    frames: Literal["stored", "source"] = Field(description="which frames the tracker saw")


class LayerMeta(Sealed):
    """What all episodes of a layer share: ``layers/<name>/layer.json``, immutable."""

    format_version: Literal[1] = 1
    name: Name
    created_with: str = Field(description="letterset version that created the layer")
    base: SHA256 = Field(description="digest of the dataset's own metadata")
    tracks: TrackSet | None = None
    made_by: dict[str, JsonValue] = Field(default_factory=dict, description="for a reader")


class LayerView(Record):
    """What a layer adds to one view."""

    name: Name
    arrays: dict[str, ArrayMeta]


class LayerEpisode(Sealed):
    """What a layer adds to one episode; stored inside its file."""

    format_version: Literal[1] = 1
    id: EpisodeId
    base: SHA256 = Field(description="digest of the episode it was made for")
    arrays: dict[str, ArrayMeta] = Field(default_factory=dict)
    views: tuple[LayerView, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _views_differ(self) -> LayerEpisode:
        names = [view.name for view in self.views]
        if len(set(names)) != len(names):
            raise ValueError(f"view names must differ, got {names}")
        return self

    def view(self, name: str) -> LayerView:
        """Return one view; raises KeyError that lists the views there are."""
        for view in self.views:
            if view.name == name:
                return view
        raise KeyError(f"no view {name!r} in {self.id}; it has {[v.name for v in self.views]}")
