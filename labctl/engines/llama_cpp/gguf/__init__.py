"""GGUF files read without llama.cpp: header, soundness, parts, lengths, vocabulary."""
