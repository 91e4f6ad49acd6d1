"""What commands on one's own model and questions share: both, which of them are tested, and where a table goes."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from core import config_json, writing
from core.console import OUTPUT
from core.errors import InputError
from core.facts.record import Fact
from core.report_tables import print_notes
from empirical import config as configs
from empirical import facts, processes, room, study, taught
from empirical.config import Config
from empirical.lm import identity
from empirical.lm import model as models
from empirical.lm.cost import Meter, Throughput

Flat = tyro.conf.arg(name="")
IDENTITY = b"identity"
"""Name of the hash in a table's metadata."""
THROUGHPUT = b"throughput"
"""Name of what making a table took, in JSON, in its metadata."""


@dataclass(frozen=True, eq=False)
class Watched(study.Base):
    """A base model whose passes are counted."""

    meter: Meter = field(default_factory=lambda: Meter(models.device()))

    def read(self) -> models.LanguageModel:
        model = super().read()
        self.meter.watch(model.network, model.pad)
        return model

    @property
    def reached(self) -> Throughput | None:
        """What asking about all facts reached so far, one way or several."""
        return self.meter.throughput("scoring", len(self.facts))


@dataclass(frozen=True)
class OnModel:
    """What the single stages share: a model, questions, and the split that says which of them are tested."""

    config: Annotated[Config, Flat] = field(default_factory=Config)
    split_seed: int = 0
    """Random seed of the held-out set and the random half, of a model that was not finetuned by `finetune`: such a one
    brings along what it was trained on, and is asked what was held out then."""
    out: Path = Path("runs")
    """Folder of the results."""
    overwrite: bool = False
    """Replace a result of other settings, questions or weights."""

    def base(self) -> study.Base:
        """Return the model named and the questions."""
        configs.check(self.config)
        given = facts.load(self.config.facts)
        if self.config.pretrains or given is None:
            raise InputError(
                "name the model with --model.name (a hub id or a folder) and the questions with --facts.source and "
                "--facts.path.\nA study of our own small model: python -m empirical run tiny"
            )
        writing.check_writable(self.out)
        room.check(self.config, self.config.model, trains=False)
        return study.Base(self.config.model, given.facts, given.notes, given.examples)

    def work(self, base_model: study.Base, name: str, *settings: Any) -> Path:
        """Return where checkpoints and pieces lie, apart from those of other settings, questions or weights."""
        return self.out / f".{name}.{self._identity(base_model, *settings)[:16]}.work"

    def _identity(self, base_model: study.Base, *settings: Any) -> str:
        asked = facts.fingerprint(facts.FactSet(base_model.facts, examples=base_model.examples))
        return config_json.config_hash([[*settings, self.split_seed], asked, identity.of(base_model.model)])

    def _settings(self) -> dict[str, Any]:
        """Return the config without the model's name: what it stands for is told by its content."""
        return configs.to_json(replace(self.config, model=models.ModelConfig()))

    def result(self, base_model: study.Base, name: str, *settings: Any) -> "Result":
        """Return where a table goes; InputError if one of other settings, questions or weights is there."""
        found = self._identity(base_model, self._settings(), *settings)
        place = Result(self.out / name, found)
        if not self.overwrite:
            place.check()
        return place

    def held_out(self, base_model: study.Base, *others: str) -> list[Fact]:
        """Return the questions that the model never saw, nor any of these other models.

        Of one that `finetune` made, those that were held out then; else those of the split.

        Raises:
            InputError: there is none.
        """
        names = (base_model.model.name, *others)
        records = [record for name in names if (record := taught.read(name)) is not None]
        if not records:
            rows = study.held_out(self.config, base_model, seed=self.split_seed)
            return [base_model.facts[row] for row in rows.tolist()]
        rows = np.arange(len(base_model.facts))
        for record in records:
            rows = np.intersect1d(rows, record.rows_held_out(base_model.facts))
        n_then = min(len(record.held_out) for record in records)
        if not len(rows):
            raise InputError(
                f"none of the {n_then:,} questions held out when {' and '.join(names)} was finetuned is among these.\n"
                "Name the questions that it was finetuned on with --facts.path, or ask it all: evaluate --which all."
            )
        if len(rows) < n_then:
            told = f"{n_then - len(rows):,} of {n_then:,} questions that were held out are not among these"
            print_notes([told], OUTPUT)
        return [base_model.facts[row] for row in rows.tolist()]

    def trained(self) -> study.Base:
        """Return the same, in the precision in which a study would finetune it."""
        gets_adapter = self.config.finetune.method == "lora"
        return replace(self.base(), model=study.models_config(self.config), gets_adapter=gets_adapter)


@dataclass(frozen=True)
class Result:
    """A table's file, and in it the hash of what it depends on."""

    path: Path
    identity: str

    def check(self) -> None:
        """Raise InputError if the file is there and depends on something else."""
        if self.path.exists() and self._written() != self.identity:
            raise InputError(
                f"{self.path} is there already, of other settings, questions or weights.\n"
                "Name another place with --out DIR, or give --overwrite."
            )

    def _written(self) -> str | None:
        try:
            return (pq.read_schema(self.path).metadata or {}).get(IDENTITY, b"").decode()
        except (OSError, ValueError):  # damaged, or none of ours
            return None

    def write(self, table: pa.Table, reached: Throughput | None = None) -> None:
        """Write the table, whole or not at all, and say what making it reached; of several processes the first does."""
        if not processes.is_first():
            return
        marks: dict[Any, Any] = {IDENTITY: self.identity}
        if reached:
            reached.tell()
            marks[THROUGHPUT] = json.dumps(reached.report())
        marked = table.replace_schema_metadata({**(table.schema.metadata or {}), **marks})
        writing.replace_file(self.path, lambda file: pq.write_table(marked, file))
