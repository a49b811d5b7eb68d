from builder.build.config_file import load_config as load_config
from builder.build.pipeline import Summary as Summary
from builder.build.pipeline import build as build
