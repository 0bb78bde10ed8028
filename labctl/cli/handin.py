"""Commands around handing in: submit, verify, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import TO_READ, lab_command, open_to_read, wait_option

if TYPE_CHECKING:
    from labctl.cli.output import Output


@lab_command(*TO_READ, "blank")
@click.option("--incomplete", is_flag=True, help="Pack although something is missing; the manifest says what.")
@wait_option
def submit(output: Output, incomplete: bool, wait: bool, **settings: object) -> None:
    """Check what is to be handed in, and pack it into one zip.

    What is missing is named.

    Example: labctl submit
    """
    from labctl.handin.submit import submit as pack
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import build_report, load_measured
    from labctl.records.lock import lock

    display = output.display
    lab = open_to_read(settings, display, notices=False)
    require_measured(lab)
    with lock(lab.folder.root, wait, display.note):
        records = load_measured(lab)
        build_report(lab, records)
        done = pack(lab, records, incomplete=incomplete)
    for deliverable in done.deliverables:
        missing = ", ".join(deliverable.missing)
        display.note(f"{'missing' if missing else 'there'}: {deliverable.name}{f' ({missing})' if missing else ''}")
    if done.drafts:
        listed = ", ".join(f"Q{number}" for number in done.drafts)
        display.warn(
            f"Still labctl's draft, not your own words: {listed}. Write them in answers.toml beside the worksheet."
        )
    output.data(done)
    output.line(str(done.path))


@lab_command("outputs", "lab_data", "text", "threads", notes=False)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model-file", type=click.Path(path_type=Path), help="A GGUF file of the submission's, to measure with.")
def verify(output: Output, file: Path, model_file: Path | None, **settings: object) -> None:
    """Check a submission.

    Are its files unchanged, do its figures follow from its raw samples, does one chunk measured again agree?

    Example: labctl verify submission-labllama-15m.zip
    """
    from labctl.handin.verify import verify as check
    from labctl.lab.values import load_config

    checks = check(file, load_config(settings), model_file=model_file)
    output.data(checks)
    output.table(file.name, ("check", "result", "detail"), [(made.name, made.status, made.detail) for made in checks])
    if any(made.status == "wrong" for made in checks):
        raise click.exceptions.Exit(1)


@lab_command("reports")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for table and chart. Default: <reports>/comparison.",
)
def compare(output: Output, runs: tuple[Path, ...], folder: Path | None, **settings: object) -> None:
    """Put several runs side by side.

    Runs are outputs/<model> folders, or submissions of a class.

    Example: labctl compare outputs/labllama-15m submission-of-ann.zip
    """
    from labctl.handin.compare import compare as put_together
    from labctl.handin.compare import contradictions, opened
    from labctl.handin.compare_files import HEADER, as_rows, files_of
    from labctl.lab.values import load_config
    from labctl.records.disk import write_bytes

    config = load_config(settings)
    with opened(runs) as loaded, contradictions("The runs"):
        compared = put_together(loaded)
        files = files_of(compared)
    folder = folder or Path(config.reports) / "comparison"
    for name, data in files.items():
        write_bytes(folder / name, data)
    output.data(compared)
    labels = {**compared.runs, **compared.machines}
    caption = "; ".join(f"{label}: {name}" for label, name in labels.items())
    caption = f"{caption}. {' '.join(compared.notes)}"
    output.table("Runs compared", HEADER, as_rows(compared), caption=caption, keys=3)
    output.display.note(f"Table and chart: {folder / 'comparison.md'}")
