"""Everybody's own program as a target: built by some commands, run by another."""
