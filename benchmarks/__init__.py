"""Side by side with llama.cpp's own tools: same files, same threads, same settings, taken in turn."""
