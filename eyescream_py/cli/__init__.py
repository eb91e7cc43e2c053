"""The command lines: one click command per Lua script."""
