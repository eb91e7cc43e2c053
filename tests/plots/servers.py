"""A Visdom server of ours for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eyescream_py.plots.keys import read_key
from eyescream_py.plots.server import ServerProcess
from tests.plots.test_plots import free_port, wait_until


@contextmanager
def running_server(key: str) -> Iterator[int]:
    """The port of a server that has started and asks for `key`."""
    port = free_port()
    server = ServerProcess(port, key)
    server.ensure_running()
    try:
        wait_until(lambda: read_key(port) == key)
        yield port
    finally:
        server.stop()
