"""labctl: which quantization of a language model to run on a CPU, decided by measurement."""

__version__ = "0.1.0"
