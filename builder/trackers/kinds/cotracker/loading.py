"""From a model's name to a checked network: package, weights, device.

Nothing here is vendored: the user installs ``cotracker`` and brings the weights.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from builder.core.errors import ConfigError
from builder.core.worker_slot import worker_slot

# How torch names what it does not make of a pickle.
_OBJECT = re.compile(r"(?:GLOBAL|unsupported class|unrecognized function) ([\w.]+)")

LICENCE = "CC-BY-NC-4.0"
PACKAGE = "git+https://github.com/facebookresearch/co-tracker.git"
HUB = "hub"


class ModelSpec(NamedTuple):
    """What sets the published models apart.

    ``window_len`` frames are seen at a time (cotracker3_offline sees a whole clip and was
    trained on 60); ``streams`` models carry tracks from one such window to the next.
    """

    window_len: int
    url: str
    v2: bool = False
    streams: bool = True

    @property
    def min_clip(self) -> int:
        """Frames without which the model returns zeros and no error."""
        return self.window_len // 2 + 1 if self.streams else 1


_URL = "https://huggingface.co/facebook/{}/resolve/main/{}.pth"
MODELS = {
    "cotracker2": ModelSpec(8, _URL.format("cotracker", "cotracker2"), v2=True),
    "cotracker2v1": ModelSpec(16, _URL.format("cotracker", "cotracker2v1"), v2=True),
    "cotracker3_offline": ModelSpec(60, _URL.format("cotracker3", "scaled_offline"), streams=False),
    "cotracker3_online": ModelSpec(16, _URL.format("cotracker3", "scaled_online")),
}


def how_to_get(model: str) -> str:
    """Say where a model's weights come from."""
    return (
        f"download the weights from {MODELS[model].url} and set tracker.weights to the file, or "
        f"set tracker.weights={HUB} to let torch.hub fetch them. Code and weights are {LICENCE}: "
        "non-commercial use only"
    )


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Undo what happens to torch's random state inside: importing cotracker seeds it with 0."""
    # Forking the state of a GPU would initialize CUDA where nobody asked for it yet.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


def package_version() -> str:
    """Return the versions of cotracker and torch."""
    try:
        from cotracker.version import __version__
    except ModuleNotFoundError:  # releases before 3.0 have no version
        __version__ = "unversioned"
    return f"cotracker {__version__}, torch {torch.__version__}"


def build_network(model: str) -> torch.nn.Module:
    """Construct a model with random weights, on the CPU; torch's random state is kept.

    Raises ConfigError when the package, or one that it needs, is not installed.
    """
    spec = MODELS[model]
    with random_state_kept():
        try:
            from cotracker.models.build_cotracker import build_cotracker
        except ModuleNotFoundError as error:
            missing = str(error.name)
            if missing.partition(".")[0] != "cotracker":
                raise ConfigError(
                    f"the package 'cotracker' is there, but not the module {missing!r} that it "
                    f"needs: install the package that has it"
                ) from None
            raise ConfigError(
                f"tracker.kind=cotracker needs the package 'cotracker' (there is no module named "
                f"{missing!r}): install it with: pip install '{PACKAGE}'; then {how_to_get(model)}"
            ) from None
        network: torch.nn.Module = build_cotracker(
            None, v2=spec.v2, offline=not spec.streams, window_len=spec.window_len
        )
    return network.eval()


def weights_file(model: str, weights: str | None) -> Path:
    """Return the checkpoint's path; ``hub`` downloads it into torch.hub's folder, once.

    Raises ConfigError when there is no such file or it cannot be fetched.
    """
    if weights is None:
        raise ConfigError(f"tracker.weights is not set for {model}: {how_to_get(model)}")
    if weights != HUB:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ConfigError(f"tracker.weights: there is no file {path}: {how_to_get(model)}")
        return path
    url = MODELS[model].url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Downloads beside the target and renames: whole or absent.
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise ConfigError(
                f"tracker.weights={HUB}: cannot fetch {url}: {error}; {how_to_get(model)}"
            ) from None
    return path


def load_weights(network: torch.nn.Module, model: str, path: Path) -> None:
    """Load a checkpoint, a flat state dict or ``{"model": state dict}``; runs no pickled code.

    Raises ConfigError saying which keys or shapes disagree with the model's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no checkpoint may raise anything
        raise ConfigError(
            f"{path} is not a checkpoint that torch can load without running code from it: "
            f"{_unloadable(error)}; {how_to_get(model)}"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise ConfigError(
            f"{path} holds neither a state dict of tensors nor one under the key 'model', but "
            f"a {type(state).__name__}; {how_to_get(model)}"
        )
    problems = disagreements(state, network.state_dict())
    if problems:
        raise ConfigError(
            f"{path} does not fit tracker.model={model}: {'; '.join(problems)}. Set "
            f"tracker.model to the model the weights were made for (one of {', '.join(MODELS)}), "
            f"or {how_to_get(model)}"
        )
    network.load_state_dict(state)


def _unloadable(error: Exception) -> str:
    """Say what is wrong with a checkpoint, without torch's advice to run the code in it."""
    text = str(error)
    if found := _OBJECT.search(text):
        return f"it holds a Python object, {found[1]}, beside tensors"
    if kind := next((kind for kind in ("TorchScript", ".tar") if kind in text), None):
        return f"it is a {kind} archive, not a state dict"
    if isinstance(error, OSError):
        return str(error)
    return "it is damaged, or no checkpoint at all"


def disagreements(
    got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    """List how a state dict differs from what a network has, in keys and shapes."""
    shapes = [
        f"{key} {tuple(got[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(got.keys() & expected.keys())
        if got[key].shape != expected[key].shape
    ]
    found = {
        "keys missing": sorted(expected.keys() - got.keys()),
        "keys unknown to the model": sorted(got.keys() - expected.keys()),
        "shapes differ": shapes,
    }
    return [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in found.items()
        if names
    ]


def choose_device(wanted: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``; worker slots take the GPUs in turn.

    torch numbers the GPUs that CUDA_VISIBLE_DEVICES lists.  Raises ConfigError when CUDA is
    asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            f"tracker.device=cuda, but torch {torch.__version__} finds no CUDA GPU "
            f"(CUDA_VISIBLE_DEVICES is {'not set' if visible is None else repr(visible)}); use "
            "tracker.device=cpu, or a machine and a build of torch with CUDA"
        )
    return torch.device("cuda", worker_slot() % torch.cuda.device_count())
