"""Lua's objects as torch modules, and back."""
