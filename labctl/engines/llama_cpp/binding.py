"""llama.cpp behind plain Python: the only module that imports llama_cpp.

It uses the low-level binding, because the high-level `Llama` class copies n_ctx x n_vocab logits at every call.
llama.cpp aborts the whole process when an assertion fails, so nothing here runs in labctl's own process: only in its
children.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.engines.llama_cpp.deaths import last_words
from labctl.engines.llama_cpp.threadpool import ThreadPool
from labctl.engines.model import FloatArray, IntArray
from labctl.errors import LabError

_WARNING_LEVELS = (3, 4)  # ggml/include/ggml.h, enum ggml_log_level
_MOST_WARNINGS, _LONGEST_LINE = 4096, 400
LogLine = Callable[[str], None]


def _load_binding() -> Any:
    """The ctypes binding without the package around it.

    `import llama_cpp` also brings its server, chat and grammar code: 11 MB that would count as the model's memory.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise LabError("llama-cpp-python is not installed.", "Run `make lab`, or: pip install llama-cpp-python")
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError, FileNotFoundError) as error:
        raise LabError(
            f"llama-cpp-python is installed but its library does not load: {error}.",
            "Reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error


@dataclass
class Llama:
    """The loaded library, with its log going to `log_line` one line at a time.

    Attributes:
        lines: what llama.cpp has said since the last `clear_log`.
        warnings: what of all that it has said came as a warning or an error.
    """

    log_line: LogLine | None = None
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    binding: Any = None
    _pending: str = ""
    _is_warning: bool = False
    _callback: Any = None

    def __post_init__(self) -> None:
        self.binding = _load_binding()
        self._callback = self.binding.llama_log_callback(self._on_log)
        self.binding.llama_log_set(self._callback, ctypes.c_void_p(0))
        self.binding.llama_backend_init()

    def _on_log(self, level: int, text: bytes, _user_data: Any) -> None:
        if level in _WARNING_LEVELS:  # a line may come in pieces, the later ones as "continued"
            self._is_warning = True
        self._pending += text.decode("utf-8", "replace")
        while "\n" in self._pending:
            line, self._pending = self._pending.split("\n", 1)
            self.lines.append(line)
            if self._is_warning and len(self.warnings) < _MOST_WARNINGS:
                self.warnings.append(line[:_LONGEST_LINE])
            self._is_warning = False
            if self.log_line is not None:
                self.log_line(line)

    def clear_log(self) -> None:
        self.lines.clear()

    def system_info(self) -> str:
        """CPU features the library was built for and found, as llama.cpp prints them."""
        return str(self.binding.llama_print_system_info().decode()).strip().rstrip("|").strip()

    def version(self) -> str:
        return str(self.binding.llama_version().decode())

    def last_words(self) -> str:
        """Why llama.cpp refused, by its log."""
        return last_words(self.lines, "llama.cpp gave no reason")


REFUSED_HINT = "Check that the file is complete; a model newer than this llama.cpp needs a newer llama-cpp-python."


class Model:
    """A GGUF file opened by llama.cpp.

    Raises:
        LabError: llama.cpp refuses the file; the message holds its reason.
    """

    def __init__(self, llama: Llama, path: Path, *, mmap: bool = True, vocab_only: bool = False) -> None:
        binding = llama.binding
        self.llama = llama
        parameters = binding.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.vocab_only = vocab_only
        parameters.load_mode = binding.LLAMA_LOAD_MODE_MMAP if mmap else binding.LLAMA_LOAD_MODE_NONE
        self._handle = binding.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._handle:
            raise LabError(f"llama.cpp cannot load {path.name}: {llama.last_words()}.", REFUSED_HINT)
        self._vocab = binding.llama_model_get_vocab(self._handle)
        self.n_vocab: int = binding.llama_vocab_n_tokens(self._vocab)
        self.n_params: int = binding.llama_model_n_params(self._handle)
        self.n_ctx_train: int = binding.llama_model_n_ctx_train(self._handle)
        self.bos: int = binding.llama_vocab_bos(self._vocab)
        self.adds_bos: bool = bool(binding.llama_vocab_get_add_bos(self._vocab))
        self._added_end: int | None = (
            binding.llama_vocab_eos(self._vocab) if binding.llama_vocab_get_add_eos(self._vocab) else None
        )
        self.is_decoder: bool = bool(
            binding.llama_model_has_decoder(self._handle)
            and not binding.llama_model_has_encoder(self._handle)
            and not binding.llama_model_is_diffusion(self._handle)
        )

    def close(self) -> None:
        if self._handle:
            self.llama.binding.llama_model_free(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tokenize(self, text: bytes, *, add_special: bool = True, special: bool = False) -> IntArray:
        """Token ids of a text.

        No end-of-text token is put behind it, even if the vocabulary asks for one: llama.cpp's tools measure and
        continue texts without it, and stop at a vocabulary that asks.

        Args:
            text: UTF-8.
            add_special: put BOS in front if the vocabulary asks for it; with `special` not before one in the text.
            special: read control tokens written out in the text as such; else they stay plain text.
        Returns: (n_tokens,) int32.
        Source: llama.cpp common/common.cpp, common_tokenize.
        """
        capacity = len(text) + 8
        for _ in range(2):
            buffer = (ctypes.c_int32 * capacity)()
            count = self.llama.binding.llama_tokenize(
                self._vocab, text, len(text), buffer, capacity, add_special, special
            )
            if count >= 0:
                if add_special and self._added_end is not None and count and buffer[count - 1] == self._added_end:
                    count -= 1
                twice = special and add_special and count > 1 and buffer[0] == buffer[1] == self.bos
                tokens: IntArray = np.ctypeslib.as_array(buffer)[int(twice) : count].copy()
                return tokens
            capacity = -count
        raise LabError("llama.cpp cannot tokenize this text.", "Use a plain UTF-8 text.")

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; they may be part of a character."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self.llama.binding.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def chat_template(self) -> str | None:
        """The model's own chat template; None without one."""
        found = self.llama.binding.llama_model_chat_template(self._handle, None)
        return found.decode("utf-8", "replace") if found else None

    def token_text(self, token: int) -> str:
        """A token as the vocabulary writes it; empty for none."""
        if token < 0:
            return ""
        found: bytes = self.llama.binding.llama_vocab_get_text(self._vocab, token)
        return found.decode("utf-8", "replace")

    def eos_text(self) -> str:
        """The token that ends a text, as the vocabulary writes it."""
        return self.token_text(self.llama.binding.llama_vocab_eos(self._vocab))

    def is_end(self, token: int) -> bool:
        """Whether a token ends the text."""
        return bool(self.llama.binding.llama_vocab_is_eog(self._vocab, token))


class Context:
    """Working memory for one model: key-value cache, compute buffers, and a reusable batch.

    Args:
        n_ctx: tokens each sequence can hold.
        n_seq: sequences side by side.
        shared: all sequences share one cache of n_ctx tokens, and may differ in length.
        n_ubatch: tokens computed at once.
        n_batch: tokens handed over in one decode; all sequences together unless set.
        n_outputs: most logits rows one decode returns; sizes the compute buffer. 0: n_batch.
    Raises:
        LabError: not enough memory, or llama.cpp refuses the settings.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_threads: int,
        n_seq: int = 1,
        shared: bool = False,
        n_ubatch: int = 512,
        n_batch: int = 0,
        n_outputs: int = 0,
    ) -> None:
        binding = model.llama.binding
        self.model = model
        self.binding = binding
        n_cells = n_ctx if shared else n_ctx * n_seq
        self.n_batch = n_batch or n_cells
        parameters = binding.llama_context_default_params()
        parameters.n_ctx = n_cells
        parameters.kv_unified = shared
        parameters.n_batch = self.n_batch
        parameters.n_ubatch = min(n_ubatch, self.n_batch)
        parameters.n_seq_max = n_seq
        parameters.n_outputs_max = n_outputs
        parameters.n_threads = n_threads
        parameters.n_threads_batch = n_threads
        parameters.flash_attn_type = binding.LLAMA_FLASH_ATTN_TYPE_AUTO
        parameters.offload_kqv = False
        parameters.op_offload = False
        parameters.no_perf = True
        self._handle = binding.llama_init_from_model(model._handle, parameters)
        if not self._handle:
            raise LabError(
                f"llama.cpp cannot make a context of {n_ctx} tokens: {model.llama.last_words()}.",
                "Close other programs to free memory, or use a smaller --ctx.",
            )
        self._pool = ThreadPool(Path(binding.__file__).parent / "lib", n_threads)
        self._pool.attach_to(binding._lib, self._handle)
        self._memory = binding.llama_get_memory(self._handle)
        self.is_causal: bool = bool(self._memory and binding.llama_get_causal_attn(self._handle))
        self._batch = binding.llama_batch_init(self.n_batch, 0, 1)
        self._token = np.ctypeslib.as_array(self._batch.token, (self.n_batch,))
        self._pos = np.ctypeslib.as_array(self._batch.pos, (self.n_batch,))
        self._wanted = np.ctypeslib.as_array(self._batch.logits, (self.n_batch,))
        for i in range(self.n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._sequence = np.zeros(self.n_batch, dtype=np.int32)
        self.n_outputs = 0

    def close(self) -> None:
        if self._handle:
            self.binding.llama_batch_free(self._batch)
            self.binding.llama_free(self._handle)
            self._handle = None
            self._pool.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def clear(self, *, data: bool = True) -> None:
        """Forget all tokens; with `data` also zero the cache, as llama-perplexity does."""
        self.binding.llama_memory_clear(self._memory, data)

    def lay_out(self, positions: IntArray, sequences: IntArray, wanted: NDArray[np.bool_]) -> None:
        """Fill in once what stays the same in every decode of this shape: all but the tokens.

        Args:
            positions, sequences, wanted: (n_tokens,) each; `wanted` marks tokens whose logits are read.
        """
        count = len(positions)
        self._pos[:count] = positions
        self._wanted[:count] = wanted
        for i in np.flatnonzero(self._sequence[:count] != sequences).tolist():
            self._batch.seq_id[i][0] = int(sequences[i])
        self._sequence[:count] = sequences
        self.n_outputs = int(wanted.sum())

    def decode(self, tokens: IntArray) -> None:
        """Run the laid-out batch over these tokens.

        Args:
            tokens: (n_tokens,), at most the length laid out; a shorter one uses the front of the layout.
        Raises:
            LabError: llama.cpp could not compute it.
        """
        count = len(tokens)
        self._token[:count] = tokens
        self._batch.n_tokens = count
        status = self.binding.llama_decode(self._handle, self._batch)
        if status != 0:
            raise LabError(
                f"llama.cpp could not compute a batch of {count} tokens (status {status}): "
                f"{self.model.llama.last_words()}.",
                "Look at the step's log; a smaller --ctx needs less memory.",
            )

    def decode_one(self, token: int, position: int) -> None:
        """Run a single token of sequence 0, logits wanted, and wait for the result."""
        self._token[0] = token
        self._pos[0] = position
        self._wanted[0] = 1
        self._batch.n_tokens = 1
        status = self.binding.llama_decode(self._handle, self._batch)
        if status != 0:
            raise LabError(f"llama.cpp could not compute a token (status {status}).", "Look at the step's log.")
        self.synchronize()

    def steps(self, tokens: Sequence[int]) -> Iterator[None]:
        """Run single tokens one after the other behind what is in memory, logits of each: one at each `next`.

        All that can be is made ready at the call, so that timing the steps times llama.cpp.
        Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_gen.
        """
        decode, wait, handle = self.binding.llama_decode, self.binding.llama_synchronize, self._handle
        values = (ctypes.c_int32 * len(tokens))(*tokens)
        pointer, size = ctypes.POINTER(ctypes.c_int32), ctypes.sizeof(ctypes.c_int32)
        batches = [
            self.binding.llama_batch_get_one(ctypes.cast(ctypes.addressof(values) + i * size, pointer), 1)
            for i in range(len(tokens))
        ]

        def run(_kept: object) -> Iterator[None]:
            for batch in batches:
                if decode(handle, batch) != 0:
                    raise LabError("llama.cpp could not compute a token.", "Look at the step's log.")
                wait(handle)
                yield

        return run(values)

    def lay_out_prompt(self, count: int) -> None:
        """Get ready to read prompts of so many tokens into sequence 0 from position 0, logits of the last."""
        positions = np.arange(count, dtype=np.int32)
        self.lay_out(positions, np.zeros(count, dtype=np.int32), positions == count - 1)

    def prompt(self, tokens: Sequence[int] | IntArray, *, all_logits: bool = False) -> None:
        """Read a prompt into sequence 0 from position 0, at most n_batch tokens; logits of the last (or all)."""
        count = len(tokens)
        wanted = np.full(count, all_logits)
        wanted[-1] = True
        self.lay_out(np.arange(count, dtype=np.int32), np.zeros(count, dtype=np.int32), wanted)
        self.decode(np.asarray(tokens, dtype=np.int32))

    def read_on(self, tokens: IntArray, position: int, *, all_logits: bool) -> None:
        """Read tokens into sequence 0 from a position on, and wait for the result; logits of all of them or none."""
        count = len(tokens)
        positions = np.arange(position, position + count, dtype=np.int32)
        self.lay_out(positions, np.zeros(count, dtype=np.int32), np.full(count, all_logits))
        self.decode(tokens)
        self.synchronize()

    def synchronize(self) -> None:
        self.binding.llama_synchronize(self._handle)

    def logits(self, n_rows: int) -> FloatArray:
        """The rows asked for, in batch order, as a view of llama.cpp's buffer: valid until the next decode.

        Returns: (n_rows, n_vocab) float32.
        """
        pointer = self.binding.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, (n_rows, self.model.n_vocab))

    def sample(self, sampler: Any, row: int) -> int:
        """Draw the next token from the logits at this place of the last batch."""
        return int(self.binding.llama_sampler_sample(sampler, self._handle, row))
