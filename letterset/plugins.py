"""What authors of sources, trackers, stores and executors need, and the suites that test theirs.

Names load when used.
"""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.build.executors.base import Events as Events
    from builder.build.executors.base import Executor as Executor
    from builder.core.errors import ConfigError as ConfigError
    from builder.core.errors import DatasetError as DatasetError
    from builder.core.errors import DecodeError as DecodeError
    from builder.core.errors import OutputError as OutputError
    from builder.core.errors import SourceError as SourceError
    from builder.core.errors import StoreError as StoreError
    from builder.core.errors import TrackingError as TrackingError
    from builder.core.errors import UnreadableError as UnreadableError
    from builder.core.errors import WorkerError as WorkerError
    from builder.core.lazy import Lazy as Lazy
    from builder.core.records import parse_record as parse_record
    from builder.core.records import stored_form as stored_form
    from builder.core.working import still_working as still_working
    from builder.inputs.fingerprint import fingerprints as fingerprints
    from builder.inputs.listing import files as files
    from builder.inputs.listing import locate as locate
    from builder.inputs.sidecars import read_npy as read_npy
    from builder.inputs.streams import BlockStream as BlockStream
    from builder.inputs.streams import Frame as Frame
    from builder.inputs.streams import FrameStream as FrameStream
    from builder.inputs.streams import StreamInfo as StreamInfo
    from builder.inputs.streams import even_times as even_times
    from builder.inputs.video import VideoStream as VideoStream
    from builder.sources.base import BaseSource as BaseSource
    from builder.sources.base import Episode as Episode
    from builder.sources.base import EpisodeRef as EpisodeRef
    from builder.sources.base import Source as Source
    from builder.sources.contents import Contents as Contents
    from builder.sources.contents import Evidence as Evidence
    from builder.sources.selected import Selected as Selected
    from builder.sources.selection import Selection as Selection
    from builder.stores.atomic import fsync_tree as fsync_tree
    from builder.stores.base import ArraySpec as ArraySpec
    from builder.stores.base import EpisodeReader as EpisodeReader
    from builder.stores.base import EpisodeWriter as EpisodeWriter
    from builder.stores.base import Store as Store
    from builder.stores.base import arrays_by_view as arrays_by_view
    from builder.stores.codecs import stored_dtype as stored_dtype
    from builder.stores.reading import FileReader as FileReader
    from builder.stores.reading import readable as readable
    from builder.stores.writing import FileStore as FileStore
    from builder.stores.writing import FileWriter as FileWriter
    from builder.testing.executors import check_executor as check_executor
    from builder.testing.sources import check_source as check_source
    from builder.testing.stores import check_store as check_store
    from builder.testing.trackers import check_call as check_call
    from builder.testing.trackers import check_tracker as check_tracker
    from builder.trackers.base import BaseSession as BaseSession
    from builder.trackers.base import Session as Session
    from builder.trackers.base import Tracker as Tracker
    from builder.trackers.base import ViewKey as ViewKey
    from builder.trackers.base import Window as Window
    from builder.trackers.windowed import WindowedTracker as WindowedTracker
    from schemas.base import Record as Record
    from schemas.dataset import TrackerInfo as TrackerInfo
    from schemas.dataset import VisibilityRule as VisibilityRule

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
