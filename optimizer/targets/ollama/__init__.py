"""A language model behind Ollama as a target."""
