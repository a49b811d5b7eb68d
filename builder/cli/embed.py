"""Encode the text of every episode with your own encoder, into a layer of the dataset.

The encoder is a Python function from a text to an array, in a module of the current folder or any
other that Python finds. AMPLIFY takes the first token of the last hidden state of T5:
lambda text: model(**tokens(text)).last_hidden_state[0, 0].
"""

import argparse
import os
import sys

from builder.cli.common import declare, say_result

HELP = "add text embeddings to a dataset"
EXAMPLE = """\
  letterset embed dataset --encoder my_package.t5:first_token
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--encoder", required=True, metavar="module:function", help="your encoder")
    parser.add_argument("--name", default="text_emb", help="name of the layer and its array")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Embed; returns 1 when an episode has no text or cannot be opened, each listed."""
    from builder.transform.embed import embed, load_encoder

    here = os.getcwd()
    sys.path.insert(0, here)  # as python itself does; the command would not look there
    try:
        load_encoder(args.encoder)
    finally:
        sys.path.remove(here)
    return say_result(embed(args.dataset, args.encoder, args.name), args.json, args.dataset)
