"""`python -m benchmarks theory|sweep|scale|mutations|device|lm|attention|finetuning|interventions`: parse and call."""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import tyro

from benchmarks import device, scale, sweep, theory
from benchmarks.mutations import command as mutations
from core.errors import InputError

COMMANDS: dict[str, type] = {
    "theory": theory.Settings,
    "sweep": sweep.Settings,
    "scale": scale.Settings,
    "mutations": mutations.Settings,
    "device": device.Settings,
}
RUN: dict[type, Callable[[Any], int | None]] = {
    theory.Settings: theory.run,
    sweep.Settings: sweep.run,
    scale.Settings: scale.run,
    mutations.Settings: mutations.run,
    device.Settings: device.run,
}
if importlib.util.find_spec("transformers"):  # the others need no language models
    from benchmarks import attention, finetuning, interventions, lm

    COMMANDS |= {
        "attention": attention.Settings,
        "finetuning": finetuning.Settings,
        "interventions": interventions.Settings,
        "lm": lm.Settings,
    }
    RUN |= {
        attention.Settings: attention.run,
        finetuning.Settings: finetuning.run,
        interventions.Settings: interventions.run,
        lm.Settings: lm.run,
    }


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 where mutations go unnoticed, 2 for a mistake in the settings, 130 if interrupted."""
    try:
        settings = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m benchmarks", args=arguments)
        return RUN[type(settings)](settings) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: no report was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
