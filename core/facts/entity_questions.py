"""EntityQuestions (Sciavolino et al. 2021): one question template for each of 24 Wikidata relations.

The files are `SPLIT/Pxx.SPLIT.json`, a list of {"question", "answers"}; the subject is what stands in the template's
place [X] (relation_query_templates.json). There is no popularity, except an order of eight buckets by how often the
subject occurs, released for P19 and P170: `frequency_buckets/rand_ent/Pxx/bucket0.test.json`, 0 the most frequent.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.facts import cells, files, texts
from core.facts.record import Fact, FactSet
from core.facts.request import Request

TEMPLATES = "relation_query_templates.json"
LATER_SPLITS = {"train": ("dev", "test"), "dev": ("test",), "test": ()}
"""The splits whose questions a split may not hold, lest they be trained or chosen on."""
N_BUCKETS = 8
PLACEHOLDER = "[X]"


def read(request: Request) -> FactSet:
    """Return the facts of a part, relation after relation by number; exact repeats once.

    Questions of train that are also in dev or test, and those of dev that are also in test, are left out and counted.

    Args:
        request: `path` is the folder that holds the splits' folders and the templates, or one file Pxx.*.json of it:
            then that file alone, compared with no other split. `relations` are Wikidata properties such as P19.
            `buckets` is a folder of frequency buckets (rand_ent or train_ent): its facts take the split's place, and
            their popularity is an order: 8 for the most frequent bucket 0, 1 for bucket 7.

    Raises:
        InputError: a file is missing or damaged, a relation unknown, or a question does not fit its template.
    """
    request.check_taken("EntityQuestions", "buckets")
    folder, split, relations, buckets = request.path, request.part, request.relations, request.buckets
    if split == "val":
        raise InputError("EntityQuestions has no part val.\nName train, dev or test with --facts.part.")
    sources = _files(folder, split, buckets)
    templates = _templates(folder)
    for name in relations:
        if name not in {file.relation for file in sources}:
            known = ", ".join(dict.fromkeys(file.relation for file in sources))
            raise InputError(f"--facts.relations: {buckets or folder} has no relation {name!r}; there are {known}.")
    chosen = [file for file in sources if not relations or file.relation in relations]
    read_files = [_read_file(file, templates) for file in chosen]
    unique, notes = cells.deduplicate([fact for facts, _ in read_files for fact in facts])
    later = set() if folder.is_file() else _questions(folder, LATER_SPLITS[split])
    kept = tuple(fact for fact in unique if fact.question not in later)
    if len(kept) < len(unique):
        notes.append(
            f"{len(unique) - len(kept):,} facts have a question of {' or '.join(LATER_SPLITS[split])}: left out"
        )
    if n_composed := sum(n for _, n in read_files):
        notes.append(f"{n_composed:,} records {texts.UNICODE}")
    return FactSet(kept, tuple(notes))


@dataclass(frozen=True)
class _File:
    """A file of facts of one relation."""

    relation: str
    name: str
    path: Path
    popularity: float | None = None


def _files(folder: Path, split: str, buckets: Path | None) -> list[_File]:
    """Return the files to read: the one named, the split's, or the buckets'."""
    if folder.is_file():
        name = folder.name.removesuffix(".json")
        return [_File(name.split(".")[0], name, folder)]
    if buckets is not None:
        return _bucket_files(buckets)
    paths = sorted((folder / split).glob(f"P*.{split}.json"), key=_by_number)
    if not paths:
        raise InputError(
            f"{folder}: no files {split}/Pxx.{split}.json.\nName the folder of EntityQuestions with --facts.path."
        )
    return [_File(relation := path.name.split(".")[0], f"{split}/{relation}", path) for path in paths]


def _bucket_files(folder: Path) -> list[_File]:
    """Return the files of a folder of frequency buckets, the most frequent of each relation first."""
    relations = sorted((path for path in folder.glob("P*") if path.is_dir()), key=_by_number)
    if not relations:
        raise InputError(f"{folder}: no folders Pxx of buckets.\nName rand_ent or train_ent with --facts.buckets.")
    return [
        _File(path.name, f"{path.name}/bucket{i}", path / f"bucket{i}.test.json", float(N_BUCKETS - i))
        for path in relations
        for i in range(N_BUCKETS)
    ]


def _by_number(path: Path) -> tuple[int, str]:
    """Return what puts P19 before P106."""
    number = path.name.split(".")[0][1:]
    return (int(number) if number.isdecimal() else 0, path.name)


def _templates(folder: Path) -> dict[str, str]:
    """Return each relation's template, from the file in the folder or, of a single file, in a folder above it."""
    places = folder.absolute().parents if folder.is_file() else (folder,)
    path = next((place / TEMPLATES for place in places if (place / TEMPLATES).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: {TEMPLATES} is not there, which tells subjects from questions; put it there.")
    templates = _load(path)
    if not isinstance(templates, dict):
        raise InputError(f"{path}: not one JSON object of templates; fetch the file anew")
    for relation, template in templates.items():
        if not (isinstance(template, str) and template.count(PLACEHOLDER) == 1):
            raise InputError(f"{path}, {relation}: the template {template!r} has no single {PLACEHOLDER}; correct it")
    return templates


def _read_file(file: _File, templates: dict[str, str]) -> tuple[list[Fact], int]:
    """Return the facts of a file, and of how many records a text was not in its composed form."""
    if file.relation not in templates:
        raise InputError(f"{file.path}: {TEMPLATES} has no relation {file.relation!r}, which the file's name says.")
    before, after = templates[file.relation].split(PLACEHOLDER)
    facts, n_composed = [], 0
    for index, (raw_question, raw_answers) in enumerate(_records(file.path)):
        question = texts.composed(raw_question)
        answers = cells.distinct([texts.clean(answer) for answer in raw_answers])
        n_composed += question != raw_question or any(texts.composed(answer) != answer for answer in raw_answers)
        if not answers:
            raise InputError(f"{file.path}, record {index + 1}: 'answers' has no visible text; correct it")
        subject = question[len(before) : len(question) - len(after)].strip()
        if question != f"{before}{question[len(before) : len(question) - len(after)]}{after}" or not subject:
            raise InputError(
                f"{file.path}, record {index + 1}: {question!r} does not fit the relation's template "
                f"{templates[file.relation]!r}.\nCorrect it in the file or in {TEMPLATES}."
            )
        name = f"{file.name}/{index}"
        facts.append(Fact(name, subject, file.relation, question, answers, file.popularity, source="entity_questions"))
    return facts, n_composed


def _records(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a file's questions with their answers, without repeated ones; InputError names the record, from 1."""
    records = _load(path)
    if not (isinstance(records, list) and records):
        raise InputError(f"{path}: not a JSON list of records; fetch the file anew")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise InputError(f"{path}, record {number}: not a JSON object; correct it or fetch the file anew")
        (question,) = _texts(path, number, "question", [record.get("question")])
        answers = _texts(path, number, "answers", record.get("answers"))
        yield question, tuple(dict.fromkeys(answer.strip() for answer in answers))


def _texts(path: Path, number: int, key: str, texts: Any) -> list[str]:
    """Return the texts if they are a list of some, none blank."""
    if not (isinstance(texts, list) and texts and all(isinstance(each, str) and each.strip() for each in texts)):
        raise InputError(f"{path}, record {number}: {key!r} is {texts!a}, no filled text; correct it")
    if any(cells.LONE_SURROGATE.search(each) for each in texts):
        raise InputError(f"{path}, record {number}: {key!r} holds half a character (a lone surrogate); correct it")
    return texts


def _load(path: Path) -> Any:
    """Return a JSON file's content; InputError names the line that is malformed."""
    try:
        return json.loads(files.read_text(path), object_pairs_hook=_with_distinct_keys)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: malformed JSON ({error.msg}); fetch the file anew") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: malformed JSON ({error}); fetch the file anew") from error


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict, if no key is there twice: as in two records run into one."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"an object has a key twice: {', '.join(key for key, _ in pairs)}")
    return content


def _questions(folder: Path, splits: tuple[str, ...]) -> set[str]:
    """Return all the questions of these splits, of those that are there."""
    paths = [path for split in splits for path in sorted((folder / split).glob(f"P*.{split}.json"))]
    return {texts.composed(question) for path in paths for question, _ in _records(path)}
