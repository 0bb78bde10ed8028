"""Commands around handing in: submit, verify, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labctl.cli.options import display_for, lab_options, open_to_read, report_options, wait_option


@click.command()
@click.option("--incomplete", is_flag=True, help="Pack although something is missing; the manifest says what.")
@lab_options
@report_options
@wait_option
def submit(incomplete: bool, as_json: bool, quiet: bool, wait: bool, **settings: Any) -> None:
    """Check what is to be handed in, and pack it into one zip.

    What is missing is named.

    Example: labctl submit
    """
    import msgspec

    from labctl.cli.output import print_json, print_line
    from labctl.handin.submit import submit as pack
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import build_report, load_measured
    from labctl.records.lock import lock

    display = display_for(quiet, as_json)
    lab = open_to_read(settings, display, notices=False)
    require_measured(lab)
    with lock(lab.folder.root, wait, display.note):
        records = load_measured(lab)
        build_report(lab, records)
        done = pack(lab, records, incomplete=incomplete)
    for one in done.deliverables:
        missing = ", ".join(one.missing)
        display.note(f"{'missing' if missing else 'there'}: {one.name}{f' ({missing})' if missing else ''}")
    if done.drafts:
        listed = ", ".join(f"Q{number}" for number in done.drafts)
        display.warn(
            f"Still labctl's draft, not your own words: {listed}. Write them in answers.toml beside the worksheet."
        )
    if as_json:
        print_json({**msgspec.to_builtins(done, enc_hook=str), "path": str(done.path)})
    else:
        print_line(str(done.path))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model-file", type=click.Path(path_type=Path), help="A GGUF file of the submission's, to measure with.")
@lab_options
def verify(file: Path, model_file: Path | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Check a submission.

    Are its files unchanged, do its figures follow from its raw samples, does one chunk measured again agree?

    Example: labctl verify submission-labllama-15m.zip
    """
    import msgspec

    from labctl.cli.output import print_json, print_table
    from labctl.handin.verify import verify as check
    from labctl.lab.config import load_config

    checks = check(file, load_config(settings), model_file=model_file)
    if as_json:
        print_json(msgspec.to_builtins(checks))
    else:
        print_table(file.name, ("check", "result", "detail"), [(one.name, one.status, one.detail) for one in checks])
    if any(one.status == "wrong" for one in checks):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for table and chart. Default: <reports>/comparison."
)
@lab_options
def compare(runs: tuple[Path, ...], output: Path | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Put several runs side by side.

    Runs are outputs/<model> folders, or submissions of a class.

    Example: labctl compare outputs/labllama-15m submission-of-ann.zip
    """
    import msgspec

    from labctl.cli.output import print_json, print_table
    from labctl.handin.compare import compare as put_together
    from labctl.handin.compare import contradictions, opened
    from labctl.handin.compare_files import HEADER, as_rows, files_of
    from labctl.lab.config import load_config
    from labctl.records.disk import write_bytes

    config = load_config(settings)
    with opened(runs) as loaded, contradictions("The runs"):
        found = put_together(loaded)
        files = files_of(found)
    folder = output or Path(config.reports) / "comparison"
    for name, data in files.items():
        write_bytes(folder / name, data)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    labels = {**found.runs, **found.machines}
    caption = "; ".join(f"{label}: {name}" for label, name in labels.items())
    print_table("Runs compared", HEADER, as_rows(found), caption=f"{caption}. {' '.join(found.notes)}", keys=3)
    display_for(quiet, as_json).note(f"Table and chart: {folder / 'comparison.md'}")
