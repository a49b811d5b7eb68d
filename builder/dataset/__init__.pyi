from builder.dataset.episodes import Dataset as Dataset
from builder.dataset.episodes import EpisodeData as EpisodeData
from builder.dataset.episodes import ViewData as ViewData
from builder.dataset.opening import open_dataset as open_dataset
