"""``hotrow export``: a checkpoint's weights as one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hotrow.cli.console import print_json, say
from hotrow.cli.train import Json
from hotrow.errors import ConfigError


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's directory (its last checkpoint), or one checkpoint's.")
    ],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
    json_: Json = False,
) -> None:
    """Write the weights as one safetensors file.

    Its names are those of a state_dict: embedding_bags.<table>.weight (as TorchRec's) and dense.<parameter>.

    \b
    Example:
      hotrow export runs/complete-journey --out model.safetensors
    """
    from hotrow.training import export_weights

    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists already; give another --out, or add --overwrite")
    result = export_weights(checkpoint, out)
    if json_:
        print_json(result)
    else:
        say(f"{result['file']}: {len(result['arrays'])} arrays, {result['num_bytes']:,} bytes")
