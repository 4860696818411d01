"""``hotrow export``: a checkpoint's weights as one safetensors file, or as a DCP checkpoint."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from hotrow.cli.console import print_json, say
from hotrow.cli.train import Json
from hotrow.errors import ConfigError


class Format(str, Enum):
    """What can be written."""

    SAFETENSORS = "safetensors"
    DCP = "dcp"


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run's directory (its last checkpoint), one checkpoint's, or a collection's commit."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file (safetensors) or the directory (dcp) to write.")],
    format_: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.SAFETENSORS,
    with_optimizer: Annotated[
        bool, typer.Option("--with-optimizer", help="Also the state of the optimizers.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace what was exported there before.")] = False,
    json_: Json = False,
) -> None:
    """Write the weights for others to read: one safetensors file, or a checkpoint of torch.distributed.checkpoint.

    Its names are those of a state_dict: embedding_bags.<table>.weight (as TorchRec's) and dense.<parameter>.
    Tables are read and written in pieces, so they may be larger than memory.

    \b
    Example:
      hotrow export runs/complete-journey --out model.safetensors
      hotrow export runs/complete-journey --out model-dcp --format dcp
    """
    _check_target(out, format_, overwrite)
    result = _export(checkpoint, out, format_, with_optimizer)
    if json_:
        print_json(result)
    else:
        say(f"{result['file']}: {len(result['arrays'])} arrays, {result['num_bytes']:,} bytes")


def _check_target(out: Path, format_: Format, overwrite: bool) -> None:
    """Raise ConfigError for a target that is something else than what is to be written, or is there already."""
    if format_ is Format.SAFETENSORS and out.is_dir():
        raise ConfigError(f"{out}: is a directory; give --out the path of a file, or add --format dcp")
    if format_ is Format.DCP and out.exists():
        is_ours = (out / ".metadata").is_file()
        if not is_ours and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"{out}: exists and is no DCP checkpoint; give --out a new directory")
        if is_ours and not overwrite:
            raise ConfigError(f"{out}: exists already; give another --out, or add --overwrite")
    elif out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists already; give another --out, or add --overwrite")


def _export(checkpoint: Path, out: Path, format_: Format, with_optimizer: bool) -> dict[str, Any]:
    from hotrow.training import export_weights, opened_for_export

    if format_ is Format.SAFETENSORS:
        return export_weights(checkpoint, out, with_optimizer=with_optimizer)
    from hotrow.interop import dcp

    with opened_for_export(checkpoint, with_optimizer=with_optimizer) as export:
        num_bytes = dcp.write(out, export.arrays)
        return {"file": str(out), "num_bytes": num_bytes, "arrays": sorted(export.arrays)}
