"""Finds the build and run settings that make compiled model inference fastest, and proves it."""

__version__ = "0.1.0"
