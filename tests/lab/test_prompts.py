"""A person's own prompts as a file: paragraphs, or JSON lines with chat messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.lab.prompts import MAX_CHARACTERS, read_prompts


def texts(path: Path) -> list[str]:
    return [one.text for one in read_prompts(str(path))]


@pytest.mark.parametrize(
    "data",
    [
        b"First line\nand second.\n\n\nAnother one.\n",
        b"\xef\xbb\xbfFirst line\r\nand second.\r\n\r\nAnother one.",
        "First line\nand second.\n \t\nAnother one.\n\n".encode("utf-16"),
    ],
)
def test_paragraphs_are_prompts(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(data)
    assert texts(path) == ["First line\nand second.", "Another one."]


def test_json_lines_hold_prompts_and_chats(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "Hello"}\n\n'
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}\n',
        "utf-8",
    )
    plain, chat = read_prompts(str(path))
    assert [(one.role, one.content) for one in plain.messages] == [("user", "Hello")]
    assert [one.role for one in chat.messages] == ["system", "user"] and chat.text == "Be brief.\n\nHi"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "x" * (MAX_CHARACTERS + 1), "line 1: a prompt has"),
        ("a.txt", "ok\n\n" * 101, "more than 100 prompts"),
        ("a.txt", "ok\n\nzero \0 byte", "line 3: a prompt has a zero byte"),
        ("a.jsonl", '{"prompt": "ok"}\nno json', "line 2:"),
        ("a.jsonl", "[" * 100_000, "line 1:"),
        ("a.jsonl", '{"prompt": 5}', "line 1:"),
        ("a.jsonl", '{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "either a prompt or messages"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "b"}]}', "the last message must be the user's"),
        ("a.jsonl", '{"messages": [{"role": "hacker", "content": "b"}]}', "line 1:"),
        ("a.jsonl", '{"prompt": " "}', "a prompt is empty"),
        ("a.jsonl", '{"prompt": "\\ud800"}', "line 1:"),
    ],
)
def test_what_is_no_prompt_is_one_line_that_names_its_place(name: str, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(LabError) as caught:
        read_prompts(str(path))
    assert says in caught.value.message and name in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"Cannot read the prompts in nowhere\.txt"):
        read_prompts(str(tmp_path / "nowhere.txt"))
