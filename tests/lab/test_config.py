"""Settings from flags, variables and lab.toml, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.engines.llama_cpp.formats import LAB_FORMATS
from labctl.errors import LabError
from labctl.lab.config import FIELDS, SETTINGS, TYPES, LabConfig
from labctl.lab.values import OTHER_VARIABLES, checked_value, load_config


def from_toml(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> LabConfig:
    (folder / "lab.toml").write_text(text, "utf-8")
    return load_config(flags, folder, environ or {})


def test_without_anything_the_lab_is_the_demo_with_its_six_formats(tmp_path: Path) -> None:
    config = load_config({}, tmp_path, {})
    assert (config.model, config.text, config.formats, config.ctx) == ("demo", None, LAB_FORMATS, 512)
    assert (config.temperature, config.top_p, config.seed, config.limit) == (0.7, 0.9, 42, 0.02)


def test_a_flag_beats_a_variable_beats_lab_toml(tmp_path: Path) -> None:
    toml = "ctx = 64\nseed = 1\nthreads = 1"
    config = from_toml(tmp_path, toml, {"LABCTL_SEED": "2", "LABCTL_THREADS": "2"}, threads=3, ctx=None)
    assert (config.ctx, config.seed, config.threads) == (64, 2, 3)


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert load_config({}, tmp_path, {"LABCTL_THREADS": "", "LABCTL_WIKITEXT": "/x"}).threads is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("formats", "Q4_K_M, q8_0", ("Q8_0", "Q4_K_M")),
        ("chunks", "64", 64),
        ("chunks", "all", "all"),
        ("weights", "size=1, quality = 2", {"size": 1.0, "quality": 2.0}),
        ("budget_s", "1.5h", 5400.0),
        ("cooldown_s", "20s", 20.0),
        ("allow_quantized_source", "yes", True),
        ("allow_quantized_source", "0", False),
        ("limit", "0.05", 0.05),
        ("model", "hf:a/b", "hf:a/b"),
        ("hang_s", "5", 5.0),
        ("yes", "off", False),
        ("q13_limits", "chatbot_kld_mean=.1,code_kld_mean=0.2", {"chatbot_kld_mean": 0.1, "code_kld_mean": 0.2}),
    ],
)
def test_variables_are_read_as_their_settings_type(tmp_path: Path, name: str, text: str, value: object) -> None:
    assert getattr(load_config({}, tmp_path, {f"LABCTL_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("toml", "said", "hinted"),
    [
        ('modle = "x"', "'modle'", "'model'"),
        ("bench_round = 3", "'bench_round'", "'bench_rounds'"),
        ("zzz = 1", "'zzz'", "formats"),
        ("[model]\nx = 1", "model", ""),
        ('threads = "two"', "threads", ""),
        ("chunks = true", "chunks", ""),
        ("chunks = 1.5", "chunks", ""),
        ('chunks = "many"', "many", "64"),
        ("chunks = 0", "0", ""),
        ("threads = 0", "threads 0", ""),
        ("ctx = 511", "ctx 511 cannot be used: expected int that's a multiple of 2", "512"),
        ("limit = nan", "limit", "0.02"),
        ("formats = [1]", "formats", ""),
        ('formats = ["Q4_K_N"]', "Q4_K_N", "Q4_K_M"),
        ("formats = []", "No format", "Q4_K_M"),
        ("weights = { speeed = 0.1 }", "speeed", ""),
        ("new_tokens = 0", "new_tokens", ""),
        ("bench_rounds = 0", "bench_rounds", ""),
        ("[[[", "not valid TOML", ""),
        ("a = " + "[" * 50_000, "not valid TOML", ""),
        ("# " + "x" * (1 << 20), "larger", ""),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_wrong_lab_toml_is_one_line_that_names_the_place(tmp_path: Path, toml: str, said: str, hinted: str) -> None:
    with pytest.raises(LabError) as caught:
        from_toml(tmp_path, toml)
    assert said in caught.value.message
    assert hinted in caught.value.hint
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_lab_toml_that_is_no_utf8_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_bytes(b'model = "\xff"')
    with pytest.raises(LabError, match="not valid TOML"):
        load_config({}, tmp_path, {})
    (tmp_path / "lab.toml").unlink()
    (tmp_path / "lab.toml").mkdir()
    with pytest.raises(LabError, match="Cannot read"):
        load_config({}, tmp_path, {})


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_wrong_variable_names_itself_whatever_the_setting(tmp_path: Path, name: str) -> None:
    if TYPES[name] in (str, str | None):
        return  # any text is a name or a path
    text = {"formats": "Q4_K_N", "candidates": "no label=a.gguf"}.get(name, "not so")
    with pytest.raises(LabError, match=f"^LABCTL_{name.upper()}") as caught:
        load_config({}, tmp_path, {f"LABCTL_{name.upper()}": text})
    assert text in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("variable", "text", "said", "hint"),
    [
        ("LABCTL_YES", "nope", "LABCTL_YES=nope cannot be used", "asked"),
        ("LABCTL_BLANK", "2", "LABCTL_BLANK=2 cannot be used", "draft"),
        ("LABCTL_DEBUG", "perhaps", "LABCTL_DEBUG=perhaps", "yes or no"),
        ("LABCTL_CHUNKS", "-3", "-3", "64"),
        ("LABCTL_CTX", "511", "LABCTL_CTX=511 cannot be used: expected int that's a multiple of 2", "512"),
        ("LABCTL_TOP_P", "nan", "LABCTL_TOP_P=nan", ""),
        ("LABCTL_HANG_S", "inf", "LABCTL_HANG_S=inf", ""),
        ("LABCTL_THREADS", "4.5", "expected int, got str", "cores"),
        ("LABCTL_FORMATS", ",", "No format", "Q4_K_M"),
        ("LABCTL_WEIGHTS", "size=a", "size=a cannot be used: could not convert string to float", "size=.3"),
        ("LABCTL_Q13_LIMITS", "chatbot_speed=1", "chatbot_speed=1", "chatbot_ppl_increase_pct"),
        ("LABCTL_Q13_LIMITS", "chatbot_kld_mean", "could not convert", "chatbot_ppl_increase_pct=5"),
        ("LABCTL_CHUNK", "4", "no such variable", "LABCTL_CHUNKS"),
        ("LABCTL_WIKITEX", "x", "no such variable", "LABCTL_WIKITEXT"),
        ("LABCTL_XYZ", "1", "no such variable", ""),
    ],
)
def test_a_variable_that_cannot_be_understood_is_an_error(
    tmp_path: Path, variable: str, text: str, said: str, hint: str
) -> None:
    with pytest.raises(LabError, match=variable) as caught:
        load_config({}, tmp_path, {variable: text})
    assert said in caught.value.message
    assert hint in caught.value.hint and caught.value.hint


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    assert load_config({}, tmp_path, {f"LABCTL_{name}": "1" for name in OTHER_VARIABLES}) == load_config(
        {}, tmp_path, {}
    )


def test_the_place_of_an_impossible_value_is_named(tmp_path: Path) -> None:
    for flags, environ, toml, said in (
        ({"ctx": 511}, {}, "", "--ctx 511"),
        ({"budget_s": -1.0}, {}, "", "--budget -1.0"),
        ({}, {"LABCTL_CTX": "511"}, "", "LABCTL_CTX=511"),
        ({}, {}, "ctx = 511", "lab.toml: ctx 511"),
        ({"ctx": 64}, {"LABCTL_CTX": "511"}, "", "LABCTL_CTX=511"),  # a flag that beats it does not hide it
    ):
        with pytest.raises(LabError) as caught:
            from_toml(tmp_path, toml, environ, **flags)
        assert caught.value.message.startswith(said)


def test_the_baseline_alone_can_be_asked_for(tmp_path: Path) -> None:
    for text in ("F16", "fp16", "BF16"):
        assert load_config({}, tmp_path, {"LABCTL_FORMATS": text}).formats == (text.upper().replace("FP", "F"),)


IMPOSSIBLE = (
    "hang_s = 0",
    "hang_s = -1.0",
    "hang_s = nan",
    "temperature = -1.0",
    "temperature = nan",
    "top_p = 5.0",
    "top_p = 0.0",
    "seed = -1",
    "seed = 4294967296",
    "weights = { size = 0.0, quality = 0.0, speed = 0.0 }",
    "weights = { size = inf }",
    'outputs = ""',
    "probe_items = -1",
    "kl_spool_bytes = 1",
    "cooldown_s = nan",
    "memory_limit_bytes = 36893488147419103232",
    "limit = 10",
    "threads = true",
)


@pytest.mark.parametrize("toml", IMPOSSIBLE)
def test_impossible_values_are_refused(tmp_path: Path, toml: str) -> None:
    with pytest.raises(LabError):
        from_toml(tmp_path, toml)


@given(st.text(max_size=60))
def test_any_text_in_lab_toml_is_settings_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "lab.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load_config({}, folder, {}), LabConfig)
    except LabError as error:
        assert error.hint
    finally:
        (folder / "lab.toml").unlink()


def test_how_many_chunks_and_questions() -> None:
    assert LabConfig(chunks="all").n_chunks is None
    assert LabConfig(chunks=7).n_chunks == 7
    assert LabConfig(chunks="auto").n_chunks is None
    assert [LabConfig(chunks=chunks).is_auto for chunks in ("auto", "all", 7)] == [True, False, False]
    assert LabConfig().n_probe_items(is_demo=True) is None
    assert LabConfig().n_probe_items(is_demo=False) == 50
    assert LabConfig(probe_items=3).n_probe_items(is_demo=True) == 3


def test_lab_data_is_here_or_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert LabConfig().lab_data_folder() == root / "lab_data"
    (tmp_path / "lab_data").mkdir()
    assert LabConfig().lab_data_folder() == Path("lab_data")
    assert LabConfig(lab_data="/x").lab_data_folder() == Path("/x")


@pytest.mark.parametrize("text", ["size", "size=x", "size=-1", "size=inf", "size=nan", "colour=1", "size=0,speed=0"])
def test_wrong_weights_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LabError, match=f"^--weights {text} cannot be used") as caught:
        load_config({"weights": text}, tmp_path, {})
    assert "size=.3" in caught.value.hint


def test_lab_toml_may_say_lists_and_times_in_words(tmp_path: Path) -> None:
    config = from_toml(tmp_path, 'formats = "Q8_0, q2_k"\nbench_budget_s = "2m"\nthreads = "3"')
    assert (config.formats, config.bench_budget_s, config.threads) == (("Q8_0", "Q2_K"), 120.0, 3)


def test_every_setting_is_described_and_its_usual_value_can_be(tmp_path: Path) -> None:
    usual = LabConfig()
    for name, setting in SETTINGS.items():
        assert setting.help.endswith(".") and not setting.flag.startswith("--no-")
        if getattr(usual, name) is not None:
            assert checked_value(name, getattr(usual, name), "") == getattr(usual, name)
