"""AMPLIFY's configuration with our override, put together by the real Hydra.

``.ci/run`` installs Hydra into an environment of its own and names it; elsewhere this is skipped.
AMPLIFY's code cannot be installed: the keys of its ``train_motion_tokenizer.yaml`` that an override
meets are recorded here, with their values.
"""

import json
import os
import subprocess

import pytest
import yaml
from legacy_fixtures import write_amplify

from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, write_splits
from builder.transform.export.amplify import export_amplify
from builder.transform.migrate import migrate

PYTHON = os.environ.get("LETTERSET_REAL_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="LETTERSET_REAL_PYTHON, with Hydra, is not set")

WEIGHTS = {
    "agentview": 0.9,
    "eye_in_hand": 0.1,
    "all": 1.0,
    "corner": 1.0,
    "corner2": 1.0,
    "front": 1.0,
}
AMPLIFY = {
    "root_dir": None,
    "train_datasets": None,
    "val_datasets": None,
    "track_method": "uniform_400_reinit_16",
    "cond_cameraviews": ["agentview", "eye_in_hand"],
    "keys_to_load": ["tracks", "images"],
    "img_shape": [128, 128],
    "true_horizon": 16,
    "track_pred_horizon": 16,
    "num_tracks": 400,
    "loss": {
        "loss_fn": "relative_ce",
        "loss_weights": WEIGHTS,
        "cls_img_size": "${img_shape}",
        "rel_cls_img_size": [15, 15],
    },
}

# As ``python train_motion_tokenizer.py --config-dir OUT/cfg +letterset=dataset root_dir=OUT`` does.
COMPOSE = """
import json, sys
import hydra
from omegaconf import OmegaConf

@hydra.main(config_path="cfg", config_name="train_motion_tokenizer", version_base="1.2")
def main(cfg):
    print(json.dumps(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)))

main()
"""


@pytest.mark.parametrize(
    ("views", "weights"),
    [
        (["agentview", "eye_in_hand"], WEIGHTS),
        (["eye_in_hand", "wrist"], {**WEIGHTS, "wrist": 1.0}),
    ],
)
def test_hydra_takes_the_override_and_known_views_keep_their_weights(tmp_path, views, weights):
    shape = (120, 160)
    for name in ("demo_0", "demo_1"):
        write_amplify(tmp_path / "old" / f"{name}.hdf5", dict.fromkeys(views, shape))
    migrate(tmp_path / "old", tmp_path / "new")
    dataset = open_dataset(tmp_path / "new")
    parts = {"train": [dataset.ids[0]], "val": [dataset.ids[1]]}
    write_splits(dataset.path, "default", Splits.model_validate({"splits": parts}))
    out = tmp_path / "out"
    export_amplify(dataset, out, "attrs", split="train:val")

    checkout = tmp_path / "AMPLIFY"
    (checkout / "cfg").mkdir(parents=True)
    (checkout / "cfg" / "train_motion_tokenizer.yaml").write_text(yaml.safe_dump(AMPLIFY))
    script = checkout / "train_motion_tokenizer.py"
    script.write_text(COMPOSE)
    given = ["--config-dir", str(out / "cfg"), "+letterset=dataset", f"root_dir={out}"]
    done = subprocess.run(
        [str(PYTHON), str(script), *given, "hydra.run.dir=."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert config["loss"]["loss_weights"] == weights
    assert config["img_shape"] == config["loss"]["cls_img_size"] == [*shape]
    assert config["cond_cameraviews"] == views
    assert config["train_datasets"] == ["libero_letterset:traj1.0"]
    assert config["val_datasets"] == ["libero_letterset_val:traj1.0"]
    assert config["keys_to_load"] == AMPLIFY["keys_to_load"]
    assert config["root_dir"] == str(out)
