"""`labctl verify`: is a submission what was measured? Hashes, figures against raw samples, one chunk measured again."""

from __future__ import annotations

import io
import math
import random
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl import __version__, steps
from labctl.errors import LabError
from labctl.handin.remeasure import Status, measure_again
from labctl.handin.submission import Manifest, changed_files, load_folder, read_manifest, read_zip, unpack
from labctl.lab.config import LabConfig
from labctl.machine.surroundings import fault
from labctl.steps.base import Record, Step
from labctl.steps.measured import Measured
from labctl.steps.quantize.step import QUANTIZE

if TYPE_CHECKING:
    from labctl.report.figures import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question put to a submission."""

    name: str
    status: Status
    detail: str


def verify(path: Path, config: LabConfig, *, model_file: Path | None = None, seed: int | None = None) -> list[Check]:
    """Check a submission.

    Args:
        config: where to look for the model and the text: its outputs and lab_data folders.
        model_file: a GGUF file of the submission's; else one is looked for.
        seed: which chunk is measured again; random if not given.
    Returns: one result a check.
    Raises:
        LabError: the file is no submission at all, or this machine cannot check any.
    """
    files = read_zip(path)
    manifest = read_manifest(path, files)
    checks = [
        _check("files are unchanged since packing", changed_files(manifest, files), f"{len(manifest.files)} files")
    ]
    with tempfile.TemporaryDirectory(prefix="labctl-verify-") as place:
        unpack({name: data for name, data in files.items() if name in manifest.files}, Path(place))
        folder = Path(place) / "outputs" / _folder_name(files)
        try:
            records = load_folder(folder, manifest.formats, manifest.warnings)
        except LabError as error:
            if (found := fault(error)) is not None:
                raise found from error
            return [*checks, Check(name="records can be read", status="wrong", detail=error.message)]
        records = _read_as_made(records, manifest)
        for name, fine, find in (
            ("records are those of the manifest", "all keys agree", lambda: _other_records(records, manifest)),
            *(
                (step.claim, "all", lambda step=step: list(_doubts(records, step)))
                for step in steps.every()
                if step.claim
            ),
            (
                "tables follow from the records",
                "every row agrees",
                lambda: list(_wrong_tables(records, manifest, files)),
            ),
        ):
            checks.append(_check(name, _found_by(find), fine))
        chance = random.Random(secrets.randbits(64) if seed is None else seed)
        status, detail = measure_again(records, config, model_file, chance, Path(place))
        checks.append(Check(name="a chunk measured again gives the same", status=status, detail=detail))
    if manifest.missing:
        checks.append(Check(name="complete", status="wrong", detail="; ".join(manifest.missing)))
    return checks


def _check(name: str, wrong: Iterable[str], fine: str) -> Check:
    found = list(wrong)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return Check(name=name, status="wrong" if found else "ok", detail="; ".join(found[:4]) + more if found else fine)


def _found_by(find: Callable[[], list[str]]) -> list[str]:
    """What a check finds; records that no lab could have made are a finding, too.

    Raises:
        LabError: this machine is at fault, not what is checked.
    """
    try:
        return find()
    except (LabError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        if (found := fault(error)) is not None:
            raise found from error
        if isinstance(error, LabError):
            return [error.message]
        return [f"the records contradict themselves ({type(error).__name__}: {error})"]


def _folder_name(files: Mapping[str, bytes]) -> str:
    """The model's folder in the zip; its name is part of what the worksheet prints."""
    return next((name.split("/")[1] for name in sorted(files) if name.startswith("outputs/")), "model")


def _read_as_made(records: Measured, manifest: Manifest) -> Measured:
    """The records as the report had them: only steps that the manifest names took part."""
    return records.only(lambda kept: records.name_of(kept) in manifest.record_keys)


def _other_records(records: Measured, manifest: Manifest) -> list[str]:
    found = records.keys
    wrong = [name for name, key in manifest.record_keys.items() if found.get(name) != key]
    hashes = {label: file.sha256 for label, file in records.of(QUANTIZE).items()}
    wrong += [
        f"digest of {label}" for label in manifest.formats if hashes.get(label) != manifest.gguf_sha256.get(label)
    ]
    for step, case, record in records:
        stated = record.provenance.inputs.get("model")
        if QUANTIZE.name in step.after and stated not in (None, hashes.get(case.format)):
            wrong.append(f"{step.name} {case} was measured on another file")
    return wrong


def _doubts(records: Measured, step: Step[Record]) -> Iterator[str]:
    for case, record in records[step].items():
        yield from (f"{case}: {doubt}" for doubt in step.doubts(record, Path(records.folder)))


def _wrong_tables(records: Measured, manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[str]:
    """Figures of worksheet and course files that the records do not give."""
    from labctl.report import coursefiles, worksheet
    from labctl.report.build import ANSWERS, read_answers
    from labctl.report.figures import figures_of, table
    from labctl.report.gaps import mark_names
    from labctl.report.sheet import Sheet

    asked = _asked(manifest)
    figures = figures_of(records, asked.limit)
    yield from _wrong_results(coursefiles.results_csv(table(records, figures)), files.get("reports/results.csv", b""))
    answers = read_answers(Path(records.folder).parents[1] / "reports" / ANSWERS)
    sheet = Sheet(
        records=records,
        figures=figures,
        weights=asked.shares,
        limit=asked.limit,
        machine=manifest.machines[0] if manifest.machines else None,
        answers=answers,
        blank=asked.blank,
        q13_limits=asked.q13_limits,
    )
    for name, text in (
        ("worksheet.md", mark_names(worksheet.render_worksheet(sheet), records)),
        ("recommendation.md", mark_names(worksheet.render_recommendation(sheet), records)),
        ("model_sizes.txt", coursefiles.model_sizes(records, figures)),
        ("perplexity_results.txt", coursefiles.perplexity_results(records, figures)),
        ("performance_results.csv", coursefiles.performance_results(figures)),
    ):
        stated = files.get(f"reports/{name}", b"").decode("utf-8", "replace")
        if manifest.labctl != __version__ and name.endswith(".md"):
            continue  # another version words its tables otherwise; results.csv holds every figure
        yield from _other_lines(name, text, stated)
    yield from _other_page(records, figures, manifest, files)


def _asked(manifest: Manifest) -> LabConfig:
    """The settings of a report that the manifest states; the others as usual. Raises ValueError: they cannot be."""
    names = ("limit", "weights", "blank", "q13_limits")
    return LabConfig().having({name: manifest.settings[name] for name in names if name in manifest.settings})


def _other_lines(name: str, made: str, stated: str) -> Iterator[str]:
    """Lines with figures that the records do not give: table rows, rules' answers, list items."""

    def lines(text: str) -> list[str]:
        found = [line.strip() for line in text.splitlines()]
        if not name.endswith(".md"):
            return found
        return [line for line in found if line.startswith(("| ", "**Answer", "- ", "> **Note")) and "____" not in line]

    known = set(lines(made))
    for line in lines(stated):
        if line not in known and not line.startswith("- Charts:"):
            yield f"{name}: {line[:90]}"
    there = set(lines(stated))
    for line in lines(made):
        if line not in there and not line.startswith("- Charts:"):
            yield f"{name} lacks: {line[:90]}"


def _other_page(records: Measured, figures: Figures, manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[str]:
    from labctl.report.page.data import as_json, page_data
    from labctl.report.page.markup import to_html

    if manifest.labctl != __version__:
        return
    html = files.get("reports/index.html", b"").decode("utf-8", "replace")
    asked = _asked(manifest)
    if as_json(page_data(records, figures, asked.shares, asked.limit)) not in html:
        yield "index.html: the figures behind its sliders and texts"
    shown = re.sub(r"<img [^>]*>", "", html)
    for name in ("worksheet", "recommendation"):
        sheet = files.get(f"reports/{name}.md", b"").decode("utf-8", "replace")
        images = dict.fromkeys(re.findall(r"\]\((\w+\.png)\)", sheet), "")
        prefix = "" if name == "worksheet" else "recommendation-"
        if re.sub(r"<img [^>]*>", "", to_html(sheet, images, shift=1, prefix=prefix)) not in shown:
            yield f"index.html: it does not say what {name}.md says"


def _wrong_results(made: str, stated: bytes) -> Iterator[str]:
    """results.csv cell by cell: numbers may differ in the last digits from machine to machine."""
    import csv

    ours, theirs = (
        {row["format"]: row for row in csv.DictReader(io.StringIO(text))}
        for text in (made, stated.decode("utf-8", "replace"))
    )
    for label, row in ours.items():
        for column, value in row.items():
            other = (theirs.get(label) or {}).get(column) or ""
            if value != other and not _close(value, other):
                yield f"results.csv: {column} of {label} is {other or 'empty'}, the records give {value or 'nothing'}"
    yield from (f"results.csv: {label} is not in the records" for label in theirs if label not in ours)


def _close(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False
