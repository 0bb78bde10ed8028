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
from typing import Any

from labctl import __version__
from labctl.errors import LabError
from labctl.handin.remeasure import Status, measure_again, stored_nll
from labctl.handin.submission import Manifest, changed_files, load_folder, read_manifest, read_zip, unpack
from labctl.lab.config import LabConfig
from labctl.machine.surroundings import fault
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.generate.record import prompt_file
from labctl.steps.groups import only, record_keys, runs
from labctl.steps.measured import LabRecords

_SAME = 1e-9  # figures computed again from the same samples, on whatever machine


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
            ("perplexities follow from the tokens' values", "all", lambda: list(_wrong_perplexities(records))),
            ("sample outputs are the records'", "all", lambda: list(_wrong_outputs(records, files))),
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


def _read_as_made(records: LabRecords, manifest: Manifest) -> LabRecords:
    """The records as the report had them: only steps that the manifest names took part."""
    return only(records, lambda one: f"{one.group.step}-{one.label}" in manifest.record_keys)


def _other_records(records: LabRecords, manifest: Manifest) -> list[str]:
    found = record_keys(records)
    wrong = [name for name, key in manifest.record_keys.items() if found.get(name) != key]
    hashes = {label: file.sha256 for label, file in records.files.items()}
    wrong += [
        f"digest of {label}" for label in manifest.formats if hashes.get(label) != manifest.gguf_sha256.get(label)
    ]
    for group, label, _, provenance in runs(records):
        if group.field != "files" and provenance.inputs.get("model") not in (None, hashes.get(label)):
            wrong.append(f"{group.step} {label} was measured on another file")
    return wrong


def _wrong_perplexities(records: LabRecords) -> Iterator[str]:
    from labctl.steps.perplexity.scorer import perplexity

    for label, run in records.perplexity.items():
        nll = stored_nll(Path(records.folder), run)
        if nll is None:
            yield f"{label}: its tokens' values are missing or damaged"
            continue
        chunks = [chunk for start, stop in run.chunks for chunk in range(start, stop)]
        values = nll[chunks]
        ppl, se = perplexity(values)
        for name, stated, found in (("perplexity", run.ppl, ppl), ("standard error", run.ppl_se, se)):
            if not math.isclose(stated, found, rel_tol=_SAME) and not (math.isnan(stated) and math.isnan(found)):
                yield f"{label}: {name} {stated:.6f} in the record, {found:.6f} from the tokens' values"
        if not (values >= 0).all():
            yield f"{label}: some token has no probability"
    for label, other in records.divergence.items():
        mean, top = _divergence(Path(records.folder), other)
        if not math.isclose(mean, other.kld_mean, rel_tol=_SAME, abs_tol=1e-15):
            yield f"{label}: KL divergence {other.kld_mean:.6f} in the record, {mean:.6f} from the tokens' values"
        if not math.isclose(top, other.same_top_p, rel_tol=_SAME):
            yield f"{label}: same top token {other.same_top_p:.6f} in the record, {top:.6f} from the tokens' values"


def _divergence(folder: Path, run: DivergenceRun) -> tuple[float, float]:
    """Mean KL divergence and top-token agreement from each token's values; NaN where these are missing or damaged."""
    import numpy as np

    from labctl.records.arrays import map_array

    path = folder / run.values_path
    try:
        if folder.resolve() not in path.resolve().parents:
            return math.nan, math.nan
        stored = map_array(path)
        if stored is None or not all(0 <= start < stop <= len(stored) for start, stop in run.chunks):
            return math.nan, math.nan
        values = np.asarray(stored[[chunk for start, stop in run.chunks for chunk in range(start, stop)]])
        n_scored = values.shape[1] // 2
        return float(values[:, :n_scored].mean()), float((values[:, n_scored:] > 0.5).mean())
    except (OSError, ValueError, IndexError, EOFError):
        return math.nan, math.nan


def _wrong_outputs(records: LabRecords, files: Mapping[str, bytes]) -> Iterator[str]:
    root = f"outputs/{Path(records.folder).name}"
    for label, run in records.generation.items():
        for one in run.generations:
            name = prompt_file(label, one.prompt_number, one.decoding)
            data = files.get(f"{root}/{name}")
            if data is None or data.decode("utf-8", "replace") != f"{one.prompt}{one.text}\n":
                yield name


def _wrong_tables(records: LabRecords, manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[str]:
    """Figures of worksheet and course files that the records do not give."""
    from labctl.report import coursefiles, worksheet
    from labctl.report.analysis import frame, rows_of
    from labctl.report.build import ANSWERS, read_answers
    from labctl.report.gaps import mark_names

    settings = manifest.settings
    limit, weights = float(settings["limit"]), settings["weights"]
    table = frame(records, limit)
    rows = rows_of(table)
    yield from _wrong_results(coursefiles.results_csv(table), files.get("reports/results.csv", b""))
    answers = read_answers(Path(records.folder).parents[1] / "reports" / ANSWERS)
    values = worksheet.context(
        records,
        rows,
        weights=(weights.get("size", 0.0), weights.get("quality", 0.0), weights.get("speed", 0.0)),
        limit=limit,
        machine=manifest.machines[0] if manifest.machines else None,
        charts=(),
        answers=answers,
        blank=bool(settings.get("blank")),
        q13_limits=settings.get("q13_limits", {}),
    )
    for name, text in (
        ("worksheet.md", mark_names(worksheet.render("worksheet.md.j2", values), records)),
        ("recommendation.md", mark_names(worksheet.render("recommendation.md.j2", values), records)),
        ("model_sizes.txt", coursefiles.model_sizes(records, rows)),
        ("perplexity_results.txt", coursefiles.perplexity_results(records, rows)),
        ("performance_results.csv", coursefiles.performance_results(rows)),
    ):
        stated = files.get(f"reports/{name}", b"").decode("utf-8", "replace")
        if manifest.labctl != __version__ and name.endswith(".md"):
            continue  # another version words its tables otherwise; results.csv holds every figure
        yield from _other_lines(name, text, stated)
    yield from _other_page(records, rows, manifest, files)


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


def _other_page(
    records: LabRecords, rows: Mapping[str, Mapping[str, Any]], manifest: Manifest, files: Mapping[str, bytes]
) -> Iterator[str]:
    from labctl.report.markup import to_html
    from labctl.report.pagedata import as_json, page_data

    if manifest.labctl != __version__:
        return
    html = files.get("reports/index.html", b"").decode("utf-8", "replace")
    weights = manifest.settings["weights"]
    chosen = (weights.get("size", 0.0), weights.get("quality", 0.0), weights.get("speed", 0.0))
    if as_json(page_data(records, rows, chosen, float(manifest.settings["limit"]))) not in html:
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
