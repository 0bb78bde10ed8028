"""What to type next: the lines that run a file with the context and the threads that it was measured for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A file to run.

    Attributes:
        file: its path, or its name in the repository.
        repo_id: the repository on the Hub; empty for a file on this disk.
        name: what Ollama is to call it.
    """

    file: str
    name: str
    n_ctx: int
    n_threads: int
    repo_id: str = ""


def server_line(one: Served) -> str:
    """For llama.cpp's server, which fetches a file of a repository by itself.

    Source: llama.cpp common/arg.cpp (-m, -hf, -hff, -c, -t).
    """
    which = ["-hf", one.repo_id, "-hff", one.file] if one.repo_id else ["-m", one.file]
    return shlex.join(["llama-server", *which, "-c", str(one.n_ctx), "-t", str(one.n_threads)])


def python_lines(one: Served) -> list[str]:
    """Three lines for llama-cpp-python."""
    sizes = f"n_ctx={one.n_ctx}, n_threads={one.n_threads}"
    if one.repo_id:
        opened = f"Llama.from_pretrained(repo_id={one.repo_id!r}, filename={one.file!r}, {sizes})"
    else:
        opened = f"Llama(model_path={one.file!r}, {sizes})"
    return [
        "from llama_cpp import Llama",
        f"llm = {opened}",
        'print(llm("Once upon a time", max_tokens=100)["choices"][0]["text"])',
    ]


def modelfile(one: Served) -> str:
    """A Modelfile for Ollama, which takes the chat template from the GGUF file itself; of a file on this disk only.

    Source: Ollama, docs/modelfile.md.
    """
    path = f'"""{one.file}"""' if any(letter in one.file for letter in " '\"") else one.file
    return f"FROM {path}\nPARAMETER num_ctx {one.n_ctx}\nPARAMETER num_thread {one.n_threads}\n"


def next_lines(one: Served, modelfile_path: str = "") -> Sequence[str]:
    """All of them, as a block to read.

    Args:
        modelfile_path: where the Modelfile lies; empty without one.
    """
    ollama = [shlex.join(["ollama", "create", one.name, "-f", modelfile_path])] if modelfile_path else []
    return [server_line(one), *ollama, *python_lines(one)]
