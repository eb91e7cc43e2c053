"""Torch 7's files: what is in them, read and written."""
