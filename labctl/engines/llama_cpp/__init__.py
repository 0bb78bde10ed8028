"""llama.cpp: the binding, its quantizer, its formats, how much memory it takes, what it warns of."""
