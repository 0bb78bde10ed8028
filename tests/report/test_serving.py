"""Lines to paste: they mean the file that was measured, whatever it is called."""

from __future__ import annotations

import ast
import shlex

import pytest

from labctl.report.serving import Served, modelfile, next_lines, python_lines, server_line

NAMES = [
    "/models/m-Q4_K_M.gguf",
    '/my models/it\'s "mine".gguf',
    "C:\\models\\m.gguf",
    "/тест/модель.gguf",
    "/a/$(rm x).gguf",
]


@pytest.mark.parametrize("file", NAMES)
def test_a_shell_and_python_read_the_name_back(file: str) -> None:
    served = Served(file=file, name="m-q4_k_m", n_ctx=8192, n_threads=6)
    assert shlex.split(server_line(served)) == ["llama-server", "-m", file, "-c", "8192", "-t", "6"]
    tree = ast.parse("\n".join(python_lines(served)))
    called = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Llama")
    assert {word.arg: ast.literal_eval(word.value) for word in called.keywords} == {
        "model_path": file,
        "n_ctx": 8192,
        "n_threads": 6,
    }
    lines = next_lines(served, "/my models/Modelfile")
    assert shlex.split(lines[1]) == ["ollama", "create", "m-q4_k_m", "-f", "/my models/Modelfile"] and len(lines) == 5


def test_a_file_of_a_repository_is_named_by_it() -> None:
    served = Served(file="sub/m-Q4.gguf", name="m", n_ctx=4096, n_threads=2, repo_id="lab/m")
    assert server_line(served) == "llama-server -hf lab/m -hff sub/m-Q4.gguf -c 4096 -t 2"
    assert "from_pretrained(repo_id='lab/m', filename='sub/m-Q4.gguf', n_ctx=4096" in python_lines(served)[1]
    assert len(next_lines(served)) == 4


def test_the_modelfile_names_file_context_and_threads() -> None:
    text = modelfile(Served(file="/models/m.gguf", name="m", n_ctx=4096, n_threads=2))
    assert text == "FROM /models/m.gguf\nPARAMETER num_ctx 4096\nPARAMETER num_thread 2\n"
    assert 'FROM """/my models/m.gguf"""' in modelfile(Served(file="/my models/m.gguf", name="m", n_ctx=1, n_threads=1))
