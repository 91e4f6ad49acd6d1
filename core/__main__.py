"""python -m core migrate FOLDER: rewrite results of the former schema in the present names."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from core import cli, migrate
from core.console import ERRORS, OUTPUT


@dataclass(frozen=True)
class Migrate:
    """Rewrite results of the former schema in place: old names become the new ones, and no number changes."""

    folder: tyro.conf.Positional[Path]
    """Folder of results: the one that --out named."""

    def __call__(self) -> int:
        with ERRORS.status("migrating") as status:
            counts = migrate.run(self.folder, lambda doing: status.update(f"migrating {doing}"))
        rewritten = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing was of the former schema"
        OUTPUT.print(f"{self.folder}: {rewritten}")
        return 0


@dataclass(frozen=True)
class Version:
    """Print the version."""

    def __call__(self) -> int:
        OUTPUT.print(f"{cli.DISTRIBUTION} {cli.version()}")
        return 0


Command = Annotated[Migrate, tyro.conf.subcommand("migrate")] | Annotated[Version, tyro.conf.subcommand("version")]
INTERRUPTED = "interrupted: what is rewritten is whole, and the same command goes on from there."


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    return cli.main(Command, "core", __doc__ or "", arguments=arguments, former={}, interrupted=INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
