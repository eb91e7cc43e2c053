"""Which of several processes that train together this is, as torchrun's environment has it."""

from __future__ import annotations

import os


def several() -> bool:
    """Whether this process is one of several that train together."""
    return os.environ.get("WORLD_SIZE", "1").strip() not in ("", "0", "1")


def is_first() -> bool:
    """Whether it is the one that writes and says what all have to say; true of one alone."""
    return not several() or os.environ.get("RANK", "0").strip() == "0"
