"""What llama.cpp is built with: the user's settings first, and AMX left out where the compiler breaks it."""

from __future__ import annotations

import pytest

from labctl.engines.llama_cpp.buildargs import AMX_OFF, VISION_OFF, breaks_amx, cmake_args


@pytest.mark.parametrize(
    ("version", "broken"),
    [
        ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", True),
        ("g++ (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", True),
        ("g++ (GCC) 10.2.1 20210110", True),
        ("c++ (GCC) 12.4.0", False),
        ("g++ (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", False),
        ("g++ (Ubuntu 13.2.0-23ubuntu4) 13.2.0", True),
        ("g++ (Debian 14.2.0-19) 14.2.0", False),
        ("Debian clang version 14.0.6", False),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", False),
        ("", False),
    ],
)
def test_compilers_that_break_amx(version: str, broken: bool) -> None:
    assert breaks_amx(version) is broken


def test_the_users_cmake_args_win() -> None:
    assert cmake_args({"CMAKE_ARGS": '-DA="x y" -DB=1'}, "amx_int8") == ["-DA=x y", "-DB=1"]


def test_vision_is_left_out() -> None:
    assert cmake_args({}, "avx2 fma") == [VISION_OFF]


def test_amx_is_left_out_only_with_a_compiler_that_breaks_it(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "labctl.engines.llama_cpp.buildargs._compiler_version", lambda _environ: "c++ (Debian 12.2.0-14) 12.2.0"
    )
    assert cmake_args({}, "flags : avx2 amx_int8 amx_tile") == [VISION_OFF, *AMX_OFF]
    assert cmake_args({}, "flags : avx2") == [VISION_OFF]
    monkeypatch.setattr(
        "labctl.engines.llama_cpp.buildargs._compiler_version", lambda _environ: "c++ (Debian 14.2.0-19) 14.2.0"
    )
    assert cmake_args({}, "flags : avx2 amx_int8 amx_tile") == [VISION_OFF]
