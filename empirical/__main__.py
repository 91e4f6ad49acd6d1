"""python -m empirical {run,pretrain,score,finetune,evaluate,attention,knockout,patch,graft,...}: parse and call."""

import sys
from typing import Annotated

import tyro

from core import cli, former
from empirical.commands import Compare, List, Overlap, Pretrain, Study, Weights
from empirical.lm import model
from empirical.mediation_commands import Grafting, Knockout, Patching
from empirical.model_commands import Attention, Evaluate, Finetune, Score

INTERRUPTED = "interrupted: what is finished is kept, and the same command goes on from there."

Command = (
    Annotated[Study, tyro.conf.subcommand("run")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Attention, tyro.conf.subcommand("attention")]
    | Annotated[Knockout, tyro.conf.subcommand("knockout")]
    | Annotated[Patching, tyro.conf.subcommand("patch")]
    | Annotated[Grafting, tyro.conf.subcommand("graft")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Overlap, tyro.conf.subcommand("overlap")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    return cli.main(
        Command,
        "empirical",
        __doc__ or "",
        arguments=arguments,
        former=former.flags("empirical"),
        interrupted=INTERRUPTED,
        prepare=model.quiet,
    )


if __name__ == "__main__":
    sys.exit(main())
