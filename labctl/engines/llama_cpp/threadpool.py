"""ggml's thread pool, which llama.cpp's own tools attach to every context.

Without one, ggml makes and frees a pool for every graph it computes: for every token that is generated.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

_CPU = b"CPU"
_PARAMETER_BYTES = 8192  # ggml_threadpool_params is about 530 bytes; ggml itself fills it in


class ThreadPool:
    """A pool of threads for one context; none where this build of ggml does not offer it.

    Attributes:
        handle: ggml_threadpool_t, or None.
    Source: llama.cpp tools/llama-bench/llama-bench.cpp, and common/common.cpp, common_threadpools.
    """

    def __init__(self, folder: Path, n_threads: int) -> None:
        self.handle: int | None = None
        self._free: Any = None
        libraries = _libraries(folder)
        if libraries is None:
            return
        ggml, base = libraries
        registry = ggml.ggml_backend_reg_by_name(_CPU)
        if not registry:
            return
        make = base.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_new")
        free = base.ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_free")
        if not make or not free:
            return
        parameters = ctypes.create_string_buffer(_PARAMETER_BYTES)
        base.ggml_threadpool_params_init(parameters, n_threads)
        self.handle = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(make)(ctypes.addressof(parameters))
        self._free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(free)

    def attach_to(self, libllama: Any, context: int) -> None:
        """Let a llama_context compute with these threads, prompts and single tokens alike."""
        if self.handle:
            attach = libllama.llama_attach_threadpool
            attach.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
            attach.restype = None
            attach(context, self.handle, None)

    def close(self) -> None:
        """Free it; the context it was attached to must be gone."""
        if self.handle:
            self._free(self.handle)
            self.handle = None


def _libraries(folder: Path) -> tuple[Any, Any] | None:
    """libggml and libggml-base, which libllama has loaded already; None where they are not found or too old."""
    libraries = []
    for name in ("ggml", "ggml-base"):
        for pattern in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll"):
            if (folder / pattern).exists():
                libraries.append(ctypes.CDLL(str(folder / pattern)))
                break
    if len(libraries) != 2:
        return None
    ggml, base = libraries
    try:
        ggml.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
        base.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        base.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
        base.ggml_threadpool_params_init.argtypes = [ctypes.c_char_p, ctypes.c_int]
        base.ggml_threadpool_params_init.restype = None
    except AttributeError:
        return None
    return ggml, base
