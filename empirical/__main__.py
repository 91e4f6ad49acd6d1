"""python -m empirical {run,pretrain,score,finetune,evaluate,attention,compare,list}: parse and call."""

import os
import sys
import warnings
from typing import Annotated, Any

import tyro

from empirical.commands import Compare, List, Pretrain, Study
from empirical.model_commands import Attention, Evaluate, Finetune, Score
from theory.console import ERRORS
from theory.errors import InputError

INTERRUPTED = "interrupted: what is finished is kept, and the same command goes on from there."

Command = (
    Annotated[Study, tyro.conf.subcommand("run")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Attention, tyro.conf.subcommand("attention")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    command: Any = tyro.cli(Command, prog="python -m empirical", args=arguments, description=__doc__)  # type: ignore
    _quiet()
    try:
        return command()
    except InputError as error:
        ERRORS.print(f"error: {error}", markup=False, style="red")
        return 2
    except KeyboardInterrupt:
        ERRORS.print(INTERRUPTED)
        return 130


def _quiet() -> None:
    """Leave the terminal to our own progress bar and messages."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|peft|torch")


if __name__ == "__main__":
    sys.exit(main())
