"""The formats' table agrees with llama.cpp, and names are read kindly."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.engines import parse_format, parse_formats
from labctl.engines.llama_cpp.formats import FORMATS, LAB_FORMATS
from labctl.errors import LabError


def test_the_numbers_are_those_of_the_installed_llama_cpp() -> None:
    # In a process of its own: labctl loads llama.cpp's binding without the package, and the two would meet.
    names = {"F32": "LLAMA_FTYPE_ALL_F32"} | {name: f"LLAMA_FTYPE_MOSTLY_{name}" for name in FORMATS if name != "F32"}
    code = f"import llama_cpp, json; print(json.dumps({{n: getattr(llama_cpp, v) for n, v in {names!r}.items()}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import json

    assert json.loads(done.stdout) == {name: row.ftype for name, row in FORMATS.items()}


def test_the_types_can_be_read_back() -> None:
    from labctl.engines.llama_cpp.gguf.reader import tensor_types

    known = {name.lower() for name, _, _ in tensor_types().values()}
    for row in FORMATS.values():
        assert row.tensor_type.lower() in known, row


def test_the_labs_formats_are_the_worksheets() -> None:
    assert LAB_FORMATS == ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
    assert len({row.ftype for row in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("name", ["q4_k_m", " Q4_K_M ", "Q4-K-M", "q4-k_M"])
def test_names_are_read_in_any_case(name: str) -> None:
    assert parse_format(name).name == "Q4_K_M"


@pytest.mark.parametrize(
    ("name", "meant"), [("Q4_K_N", "Q4_K_M"), ("Q8", "Q8_0"), ("Q4KM", "Q4_K_M"), ("Q3_K_", "Q3_K_M")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(LabError, match=re.escape(repr(name))) as caught:
        parse_format(name)
    assert meant in caught.value.hint


def test_a_name_near_nothing_lists_the_formats() -> None:
    with pytest.raises(LabError) as caught:
        parse_format("xyz")
    assert all(name in caught.value.hint for name in LAB_FORMATS)


@given(st.lists(st.sampled_from([*FORMATS, "q4_k_m", " "])))
def test_lists_come_out_in_the_worksheets_order_and_once(names: list[str]) -> None:
    found = [row.name for row in parse_formats(names)]
    assert set(found) == {name.strip().upper() for name in names if name.strip()}
    order = list(FORMATS)
    assert found == sorted(found, key=order.index)
    assert len(found) == len(set(found))
