"""Where a run's Visdom server is, and which of its environments is the run's."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyescream_py.plots.client import Address
from eyescream_py.plots.windows import environment_of
from eyescream_py.system.errors import UserError


def test_addresses() -> None:
    assert Address.parse("http://host/a/b/", 1).page("e") == "http://host:1/a/b/env/e"
    assert Address.parse("http://[::1]", 8097).page("e") == "http://[::1]:8097/env/e"
    assert Address.parse("::1", 8097) == Address.parse("[::1]", 8097) == Address("::1", 8097)
    assert Address.parse("bücher.example", 1).page("e") == "http://bücher.example:1/env/e"
    odd_paths = ("http://a?b", "http://u@a", "http://a/#x", "http://a/%00", "http://a/ b", "a/é")
    for server in (*odd_paths, "a" * 64, "a..b", ".", "a b", "a%00", "{}", "a\u200b", "1::2::3"):
        with pytest.raises(UserError, match="--visdom_server"):
            Address.parse(server, 8097)


def test_folders_of_one_name_have_environments_of_their_own(tmp_path: Path) -> None:
    first, second = environment_of(tmp_path / "a" / "logs"), environment_of(tmp_path / "b/logs")
    assert first != second
    assert first == environment_of(str(tmp_path / "b" / ".." / "a" / "logs"))
    assert first.startswith("logs-")
