"""Waiting for a descriptor, of any number: `select` fails from 1024 on. Imports nothing of ours."""

from __future__ import annotations

import select

READ, WRITE = select.POLLIN, select.POLLOUT


def is_ready(descriptor: int, event: int, patience_s: float) -> bool:
    """Whether it can be read or written (READ, WRITE) without waiting, within `patience_s`."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(1000 * patience_s))
