"""Lua's networks under Lua's file names, fast forms of their layers, and the files they live in."""
