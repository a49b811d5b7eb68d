"""The configs that ship: each is valid, down to its backends' own settings."""

import pytest
from places import ROOT

from builder.build.backends import check_backends
from builder.build.config_file import load_config

CONFIGS = sorted(ROOT.glob("cfg/*.yaml"))


def test_the_configs_were_found():
    assert {"quickstart", "small_on_disk", "amplify_checkpoint"} <= {p.stem for p in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    check_backends(load_config(path))


def test_the_quickstart_states_the_defaults():
    stated = load_config(ROOT / "cfg" / "quickstart.yaml")
    least = load_config(
        defaults={"img_shape": [256, 256], "source.path": "videos", "store.path": "dataset"}
    )
    assert stated == least
