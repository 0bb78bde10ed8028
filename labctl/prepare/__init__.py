"""Getting a model and a text ready: sources, conversion, quantization."""
