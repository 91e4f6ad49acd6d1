"""`python -m benchmarks theory`: parse and call."""

import sys

import tyro

from benchmarks import theory
from theory.errors import InputError


def main() -> int:
    """Return the exit code: 0, 2 for a mistake in the settings, 130 if interrupted."""
    try:
        theory.run(tyro.extras.subcommand_cli_from_dict({"theory": theory.Settings}, prog="python -m benchmarks"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
