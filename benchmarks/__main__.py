"""`python -m benchmarks theory|sweep|scale|attention|finetuning|interventions`: parse and call."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import tyro

from benchmarks import scale, sweep, theory
from core.errors import InputError

COMMANDS: dict[str, type] = {"theory": theory.Settings, "sweep": sweep.Settings, "scale": scale.Settings}
RUN: dict[type, Callable[[Any], None]] = {
    theory.Settings: theory.run,
    sweep.Settings: sweep.run,
    scale.Settings: scale.run,
}
if importlib.util.find_spec("transformers"):  # the others need no language models
    from benchmarks import attention, finetuning, interventions

    COMMANDS |= {
        "attention": attention.Settings,
        "finetuning": finetuning.Settings,
        "interventions": interventions.Settings,
    }
    RUN |= {
        attention.Settings: attention.run,
        finetuning.Settings: finetuning.run,
        interventions.Settings: interventions.run,
    }


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the settings, 130 if interrupted."""
    try:
        settings = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m benchmarks", args=arguments)
        RUN[type(settings)](settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
