"""Encode the text of every episode with your own encoder, into a layer of the dataset.

The encoder is a Python function from a text to an array, in a module of the current folder or
anywhere Python finds it. AMPLIFY's files hold (1, 512): the first token of the last hidden state
of T5-small's encoder, for a batch of one text (padded to 32 tokens):
lambda text: model(**tokens([text])).last_hidden_state[:, 0].
"""

import argparse

from builder.cli.common import declare, say_result

HELP = "add text embeddings to a dataset"
EXAMPLE = """\
  letterset embed dataset --encoder my_package.t5:first_token
"""
NEXT = "WindowDataset({dataset!r}, layers=[{name!r}])"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--encoder", required=True, metavar="module:function", help="your encoder")
    parser.add_argument("--name", default="text_emb", help="name of the layer and its array")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Embed; returns 1 when an episode has no text or cannot be opened, each listed."""
    from builder.transform.embed import embed

    return say_result(embed(args.dataset, args.encoder, args.name), args.json, args.dataset)
