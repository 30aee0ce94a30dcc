"""A GGUF model in llama.cpp as a target."""
