"""python -m empirical {run,pretrain,score,finetune,evaluate,attention,knockout,patch,graft,...}: parse and call."""

import sys
from typing import Annotated

import tyro

from core import cli, former
from core.errors import InputError
from empirical import processes
from empirical.commands import Compare, List, Measure, Overlap, Pretrain, Study, Weights
from empirical.heads import Heads
from empirical.lm import model
from empirical.mediation_commands import Grafting, Knockout, Patching
from empirical.model_commands import Attention, Evaluate, Finetune, Score

INTERRUPTED = "interrupted: what is finished is kept, and the same command goes on from there."

Command = (
    Annotated[Study, tyro.conf.subcommand("run")]
    | Annotated[Measure, tyro.conf.subcommand("measure")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Attention, tyro.conf.subcommand("attention")]
    | Annotated[Knockout, tyro.conf.subcommand("knockout")]
    | Annotated[Patching, tyro.conf.subcommand("patch")]
    | Annotated[Grafting, tyro.conf.subcommand("graft")]
    | Annotated[Heads, tyro.conf.subcommand("heads")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Overlap, tyro.conf.subcommand("overlap")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


OF_FILES = ("weights", "compare", "overlap", "list")
"""Commands that run no model: any number of processes may."""
SHARED = ("score", "finetune", "evaluate", "attention")
"""Commands that several processes do together."""


def check_alone() -> None:
    """Raise InputError where torchrun or its like started several processes: each would do all of the work."""
    if (n_processes := processes.asked_for()) > 1:
        raise InputError(
            f"WORLD_SIZE is {n_processes}: of several processes, as torchrun and accelerate launch start them, each "
            f"would do all of the work and write the same files ({', '.join(SHARED)} share theirs out).\nStart it as "
            "one process, as often as you like: processes on one study and --out divide it."
        )


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments

    def prepare() -> None:
        model.quiet()
        if given[0] in SHARED:
            processes.start()
        elif given[0] not in OF_FILES:
            check_alone()

    code = cli.main(
        Command,
        "empirical",
        __doc__ or "",
        arguments=arguments,
        former=former.flags("empirical"),
        interrupted=INTERRUPTED,
        prepare=prepare,
    )
    if code == 0:
        processes.end()
    return code


if __name__ == "__main__":
    sys.exit(main())
