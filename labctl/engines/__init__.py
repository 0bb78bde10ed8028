"""One folder an engine: what can open, quantize and run a model."""
