"""Opening a dataset: a folder of our own, a URL, or a folder of older track files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.core.errors import ConfigError
from builder.dataset.episodes import MAX_OPEN_EPISODES, Dataset
from builder.dataset.folder import META_NAME


def open_dataset(
    path: Path | str,
    img_shape: tuple[int, int] | None = None,
    *,
    max_open: int = MAX_OPEN_EPISODES,
    tracks: str | None = None,
    layers: Sequence[str] = (),
    cache: Path | str | None = None,
    cache_bytes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    whole_episodes: bool = False,
    **legacy: Any,
) -> Dataset:
    """Open a dataset folder for reading; at most ``max_open`` episode files stay open.

    ``path`` may be a URL that fsspec knows, such as ``s3://bucket/dataset``: of large episodes the
    bytes that samples hold are fetched, small ones are copied whole to the folder ``cache`` when
    they are first used, all of them with ``whole_episodes``.  The cache stays below ``cache_bytes``
    if that is given; see ``builder.dataset.remote.RemoteDataset``.  ``storage_options`` go to
    fsspec.

    ``tracks`` names a layer whose tracks take the place of the dataset's own; the arrays of
    ``layers`` are added to those of the episodes and views.

    A folder of older AMPLIFY- or ATM-layout files opens too: it needs ``img_shape`` (H, W), the
    training configuration's, and takes the options of
    :func:`builder.dataset.legacy.dataset.open_legacy`.

    Raises DatasetError when the folder is no dataset or is damaged, NewerFormatError when
    a newer letterset made it.
    """
    if isinstance(path, str) and "://" in path:
        if img_shape is not None or legacy:
            raise ConfigError(f"{path}: folders of older files are read from a local disk only")
        from builder.dataset.remote import RemoteDataset

        options = (cache, cache_bytes, storage_options, whole_episodes)
        return RemoteDataset(path, max_open, tracks, layers, *options)
    if cache is not None or cache_bytes is not None or storage_options is not None:
        raise ConfigError(f"{path} is no URL: cache and storage_options are for URLs, s3://...")
    path = Path(path)
    if img_shape is None and not legacy:
        return Dataset(path, max_open, tracks, layers)
    if (path / META_NAME).exists():
        raise ConfigError(
            f"{path} records its own img_shape; {', '.join(['img_shape', *legacy])} are for older "
            "folders. Give another img_shape to WindowDataset"
        )
    from builder.dataset.legacy.dataset import open_legacy

    if img_shape is None:
        raise ConfigError(f"{path}: older files do not record img_shape, give img_shape=(H, W)")
    return open_legacy(path, img_shape, max_open=max_open, **legacy)
