"""Chat messages written out by a model's own template, which is a stranger's program: in a process that is killed.

The template runs in Jinja's sandbox: it reaches no attribute of Python's own and no file. Time, memory and output are
limited by the process it runs in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MAX_TEMPLATE_BYTES = 200_000
MAX_OUTPUT_BYTES = 1_000_000
TIME_S = 5.0
_START_S = 5.0  # for Python and Jinja to load, on a busy machine
_MEMORY_BYTES = 1 << 29
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from labctl.steps.generate.chat import answer; answer()"


class UnusableTemplateError(Exception):
    """Why a template could not be used, in words without a full stop."""


def rendered(template: str, conversations: Sequence[Sequence[Mapping[str, str]]], bos: str, eos: str) -> list[str]:
    """Each conversation as the model wants it, up to where the assistant speaks.

    Args:
        conversations: of messages with a role and a content.
        bos, eos: texts of the tokens that begin and end a text.
    Raises:
        UnusableTemplateError: the template fails, or needs too much time, memory or output.
    Source: transformers, utils/chat_template_utils.py: trim_blocks, lstrip_blocks, loop controls, tojson.
    """
    if len(template.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
        raise UnusableTemplateError(f"it is larger than {MAX_TEMPLATE_BYTES // 1000} kB")
    order = {"template": template, "conversations": conversations, "bos": bos, "eos": eos}
    package = Path(__file__).resolve().parents[3]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(package)],
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIME_S + _START_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnusableTemplateError(f"it took more than {TIME_S:g} seconds") from error
    except OSError as error:
        raise UnusableTemplateError(f"its process could not be started ({error.strerror})") from error
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        late = done.returncode == _LATE
        raise UnusableTemplateError(
            f"it took more than {TIME_S:g} seconds" if late else "its process ended without a result"
        ) from error
    if "fault" in found:
        raise UnusableTemplateError(found["fault"])
    return [str(text) for text in found["texts"]]


_LATE = 3


def answer() -> NoReturn:
    """The process: an order on stdin, texts or a fault on stdout."""
    order = json.loads(sys.stdin.buffer.read())
    _limit()
    threading.Timer(TIME_S, lambda: os._exit(_LATE)).start()
    try:
        found: dict[str, object] = {"texts": _texts(order)}
    except UnusableTemplateError as fault:
        found = {"fault": str(fault)}
    except MemoryError:
        found = {"fault": "it needs too much memory"}
    except RecursionError:
        found = {"fault": "it calls itself without end"}
    except Exception as error:  # noqa: BLE001  # whatever a stranger's program raises
        said = " ".join(str(error).split())[:200].rstrip(".")
        found = {"fault": said or type(error).__name__}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


def _limit() -> None:
    """At most so much memory and processor time, where the system has such limits; the parent's clock holds anyway."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {resource.RLIMIT_AS: _MEMORY_BYTES, resource.RLIMIT_CPU: int(TIME_S + 2 * _START_S)}
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (OSError, ValueError):  # macOS does not limit address space
            continue


def _texts(order: Mapping[str, Any]) -> list[str]:
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: object) -> NoReturn:
        raise TemplateError(str(message))

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    template = environment.from_string(order["template"])
    texts = []
    left = MAX_OUTPUT_BYTES
    for messages in order["conversations"]:
        parts = []
        for part in template.generate(
            messages=messages,
            add_generation_prompt=True,
            bos_token=order["bos"],
            eos_token=order["eos"],
            tools=None,
            documents=None,
        ):
            left -= len(part.encode())
            if left < 0:
                raise UnusableTemplateError(f"it writes more than {MAX_OUTPUT_BYTES // 1_000_000} MB")
            parts.append(part)
        texts.append("".join(parts))
        if not texts[-1].strip():
            raise UnusableTemplateError("it writes nothing")
    return texts
