"""`python -m rightcall.tiny`: rebuild the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from rightcall.tiny.build import build


def main(
    work: Annotated[Path, typer.Option(help="Corpora and phases are kept here.")] = Path("build/tiny"),
    output: Annotated[Path, typer.Option(help="Where the models go.")] = Path(__file__).parent,
    threads: Annotated[int, typer.Option(help="Of torch.", min=1)] = 1,
) -> None:
    """Train the tiny teacher and student from scratch, phase by phase."""
    torch.set_num_threads(threads)
    build(work, output)


if __name__ == "__main__":
    typer.run(main)
