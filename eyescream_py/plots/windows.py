"""The Visdom windows of a run: pictures and curves that can neither stop nor slow it.

A call copies its values and returns. One background thread sends each window's latest content, at
most twice a second (fifty times for a page that is played with); what a slow server misses is
overwritten, never queued. A connection that breaks costs nothing but the plots: when a server
answers again it is shown every window anew.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import math
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eyescream_py.plots.client import (
    FACES,
    PANE_WIDTH,
    Address,
    Listener,
    PlotFlags,
    RefusedError,
    picture_grid,
    post,
)
from eyescream_py.plots.contents import Curve, Pictures, Sliders, as_uint8
from eyescream_py.plots.keys import claim, new_key, read_key, release
from eyescream_py.plots.server import ServerProcess
from eyescream_py.plots.sliders import Slider
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.locks import HeldError, Lock
from eyescream_py.system.threads import start_thread
from eyescream_py.system.voice import say

if TYPE_CHECKING:
    import torch

    from eyescream_py.plots.moves import Moves

_PAUSE_S = 0.5  # between two rounds of sending
_SHORT_PAUSE_S = 0.02
_RETRY_S = 1.0  # after a failure
_START_S = 60.0  # for a server that is waited for; its first start may fetch the page's scripts
_GOODBYE_S = 2.0  # for the last round when a run ends
_TAKE_OVER_S = 30.0  # until a run starts its own server in place of one that went away


class Plots:
    """Shows a run's windows in Visdom; without Visdom every call does nothing."""

    def __init__(self, sender: _Sender | None) -> None:
        self._sender = sender
        self._complaints: set[str] = set()
        self._claim: Lock | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is shown: what is only made to be shown may be left out otherwise."""
        return self._sender is not None

    @classmethod
    def open(
        cls,
        enabled: bool,
        server: str,
        port: int,
        env: str,
        needed_by: str = "",
        flags: PlotFlags = FACES,
    ) -> Plots:
        """Use the Visdom that listens at `server`:`port`, or start one on this machine.

        Says in one line where the page is or why there is none. `env` names the page's
        environment, `needed_by` a flag that makes no sense without a page, and whose windows are
        to follow a hand at once. Raises UserError when the address is none or belongs to another
        program, and for `needed_by` wherever there is no page.
        """
        if not enabled:
            return cls(None)
        try:
            return cls._found_or_started(Address.parse(server, port, flags), env, needed_by, flags)
        except OSError as error:  # no thread to be had
            if needed_by:
                raise
            say(f"Plots are off: {why(error)}.")
            return cls(None)

    @classmethod
    def _found_or_started(cls, typed: Address, env: str, needed_by: str, flags: PlotFlags) -> Plots:
        ours = typed.is_local and not typed.base  # a base URL is that of a server elsewhere
        address, listener = _found(typed) if ours else (typed, typed.probe())
        env = re.sub(r"[^\w.-]+", "_", env).strip("_.")[:128] or "main"
        own_server = _own_server(address) if ours else None
        startable = listener is Listener.NOBODY and own_server is not None
        why_not = _why_not(address, listener, ours, startable, bool(needed_by), flags)
        if why_not and needed_by:
            raise UserError(f"{needed_by}: {why_not}")
        if why_not:
            say(f"Plots are off: {why_not}.")
            return cls(None)
        if startable and own_server is not None:
            address = address.with_key(own_server.key)
            own_server.ensure_running()
            if needed_by:
                _await(own_server, address, needed_by, flags)
        say(_where(address, env, listener, ours))
        sender = _Sender(address, env, own_server, at_once=bool(needed_by))
        start_thread(sender)
        return cls(sender)

    def images(
        self,
        window: str | int,
        images: torch.Tensor | np.ndarray,
        title: str,
        columns: int = 10,
        width: int = PANE_WIDTH,
    ) -> None:
        """Show `images` (N,C,H,W), C of 1 or 3, values 0..1 (clipped), as a grid, in a window
        `width` pixels wide."""
        if self._sender is None:
            return
        try:
            content = Pictures(title, picture_grid(as_uint8(images), columns), width)
        except (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError) as error:
            self._complain(str(window), error)
            return
        self._sender.show(str(window), content)

    def sliders(self, window: str, sliders: tuple[Slider, ...], title: str) -> Moves | None:
        """Show `sliders`; returns what to ask where they stand, None without Visdom."""
        if self._sender is None:
            return None
        from eyescream_py.plots.moves import Moves  # loads tornado, which curves do not need

        self._sender.show(window, Sliders(title, sliders))
        return Moves(self._sender.address, self._sender.env, window)

    def tell_of_others(self, kind: str) -> None:
        """Say so where another process of this user on this machine shows windows of this `kind` in
        the same environment: each would replace the other's."""
        if self._sender is None:
            return
        address, env = self._sender.address(), self._sender.env
        try:
            self._claim = claim(f"{address.host}_{address.port}_{env}_{kind}")
        except HeldError as error:
            say(
                f"--visdom_env={env}: {error.holder} shows the same windows there, and each "
                "replaces the other's; give another name"
            )

    @property
    def given_up(self) -> bool:
        """Whether no page will come any more."""
        return self._sender is None or self._sender.given_up

    def curve(
        self,
        window: str | int,
        x: float,
        values: dict[str, float],
        title: str,
        xlabel: str = "",
        ylabel: str = "",
    ) -> None:
        """Append the point (`x`, value) to every named series; a value that is not finite is a gap.

        Long series are thinned out towards their start, so that an endless run stays small.
        """
        if self._sender is None:
            return
        try:
            if not math.isfinite(x):
                raise ValueError(f"x = {x} has no place on an axis")
            self._sender.append(str(window), Curve(title, (xlabel, ylabel)), x, values)
        except (ValueError, TypeError) as error:
            self._complain(str(window), error)

    def close(self) -> None:
        """Send what is new, for two seconds at most, and end the server if it is the run's own."""
        if self._sender is not None:
            self._sender.finish()
            self._sender = None
        if self._claim is not None:
            release(self._claim)
            self._claim = None

    def _complain(self, window: str, error: Exception) -> None:
        if window not in self._complaints:
            self._complaints.add(window)
            say(f"Plot window {window} is left out: {error}")


def _own_server(address: Address) -> ServerProcess | None:
    if importlib.util.find_spec("visdom") is None:
        return None
    return ServerProcess(address.port, address.base.strip("/") or new_key())


def _found(address: Address) -> tuple[Address, Listener]:
    """Who listens; on this machine first a server of this user, whose key is kept, then any."""
    key = read_key(address.port)
    if key:
        listener = address.with_key(key).probe()
        if listener is not Listener.STRANGER:
            return address.with_key(key), listener
    return address, address.probe()


def _await(server: ServerProcess, address: Address, needed_by: str, flags: PlotFlags) -> None:
    """Return when the page is there: a person opens the address as soon as it is printed."""
    end = time.monotonic() + _START_S
    while address.probe() is not Listener.VISDOM:
        if server.pid is None or time.monotonic() > end:
            server.stop()
            raise UserError(
                f"{needed_by}: the Visdom server does not come up at port {address.port}; "
                f"{flags.port} chooses another one"
            )
        time.sleep(0.1)


def _why_not(
    address: Address,
    listener: Listener,
    ours: bool,
    startable: bool,
    needed: bool,
    flags: PlotFlags,
) -> str:
    """Why there is no page; empty where there is one, or may be one later and that suffices."""
    place = f"{address.host}:{address.port}"
    if listener is Listener.STRANGER:
        turn_off = "" if needed else f", or turn plots off with {flags.off}"
        raise UserError(
            f"{flags.port}={address.port}: something that is not Visdom answers at {place}; "
            f"choose another port{turn_off}"
        )
    if listener is Listener.LOCKED:
        return f"the Visdom at {place} is another user's; {flags.port} chooses another port"
    if listener is Listener.LOGIN:
        return (
            f"the server at {place} asks for a login, which runs have not; {flags.port} chooses "
            "another port"
        )
    if listener is Listener.NOBODY and ours and not startable:
        return "Visdom is not installed (pip install -r requirements.txt)"
    if needed and listener is not Listener.VISDOM and not startable:
        return f"no Visdom answers at {place}; start one there or leave {flags.server} out"
    return ""


def environment_of(folder: str | os.PathLike[str]) -> str:
    """The name of a run's environment: its folder's, and a few letters that tell apart folders of
    one name (`a/logs`, `b/logs`)."""
    path = Path(folder).resolve()
    letters = hashlib.blake2b(os.fsencode(path), digest_size=3).hexdigest()
    return f"{path.name}-{letters}"


def _where(address: Address, env: str, listener: Listener, ours: bool) -> str:
    if listener is Listener.NOBODY and ours:
        return f"Plots: {address.page(env)} (Visdom, started with this run)"
    if listener is Listener.VISDOM:
        return f"Plots: {address.page(env)} (Visdom was already there)"
    state = "does not answer" if listener is Listener.SILENT else "is not there yet"
    return f"Plots: {address.page(env)} (Visdom {state}: the run goes on and keeps trying)"


class _Sender(threading.Thread):
    """Owns the windows' contents, the connection, and the server when it is the run's own."""

    def __init__(
        self, address: Address, env: str, own_server: ServerProcess | None, at_once: bool
    ) -> None:
        super().__init__(name="plots", daemon=True)
        self._address = address
        self.env = env
        self._pause_s = _SHORT_PAUSE_S if at_once else _PAUSE_S
        self._server = own_server
        self._windows: dict[str, Pictures | Curve | Sliders] = {}
        self._unsent: dict[str, None] = {}  # an ordered set of window names
        self._news = threading.Condition()  # guards the two above
        self._ending = threading.Event()
        self._refused = False

    def address(self) -> Address:
        """Where the server is now."""
        return self._address

    @property
    def given_up(self) -> bool:
        return self._refused or (self._server is not None and self._server.given_up)

    def show(self, window: str, content: Pictures | Sliders) -> None:
        with self._news:
            self._windows[window] = content
            self._unsent[window] = None
            self._news.notify()

    def append(self, window: str, fresh: Curve, x: float, values: dict[str, float]) -> None:
        with self._news:
            curve = self._windows.get(window)
            if not isinstance(curve, Curve):
                curve = self._windows[window] = fresh
            curve.title, curve.labels = fresh.title, fresh.labels
            curve.append(x, values)
            self._unsent[window] = None
            self._news.notify()

    def finish(self) -> None:
        self._ending.set()
        with self._news:
            self._news.notify()
        self.join(_GOODBYE_S)
        if self._server:
            self._server.stop()

    def run(self) -> None:
        connection = self._address.connection()
        failing_since: float | None = None
        while True:
            last_round = self._ending.is_set()
            try:
                self._send_unsent(connection)
                failing_since = None
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, RefusedError) and not self._refused:
                    self._refused = self._is_refused(error)
                connection.close()
                self._send_all_again()
                failing_since = failing_since or time.monotonic()
                self._restore_server(time.monotonic() - failing_since)
            if last_round:
                break
            self._ending.wait(_RETRY_S if failing_since else self._pause_s)
            self._wait_for_news()
        connection.close()

    def _send_unsent(self, connection: http.client.HTTPConnection) -> None:
        while True:
            with self._news:
                if not self._unsent:
                    return
                window = next(iter(self._unsent))
                del self._unsent[window]
                content = self._windows[window].copy()
            post(connection, self._address.base, content.message(window, self.env))
            if self._server:
                self._server.answered()

    def _is_refused(self, error: RefusedError) -> bool:
        """Try the key of a server that this user started since; else say what is wrong."""
        key = read_key(self._address.port) if self._address.is_local else ""
        if key and self._address.base != f"/{key}":
            self._address = self._address.with_key(key)
            return False
        say(
            f"Plots: the Visdom at {self._address.host}:{self._address.port} takes nothing "
            f"(status {error.status}; does it ask for a login?). The run goes on without plots."
        )
        return True

    def _send_all_again(self) -> None:
        with self._news:
            self._unsent.update(dict.fromkeys(self._windows))

    def _restore_server(self, failing_s: float) -> None:
        if self._server and (self._server.was_started or failing_s > _TAKE_OVER_S):
            self._server.ensure_running()

    def _wait_for_news(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._unsent or self._ending.is_set())
