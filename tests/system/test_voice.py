import subprocess
import sys
from pathlib import Path

import pytest

from eyescream_py.system.voice import as_typed, counted, printable

TALK = """
import sys
from eyescream_py.system.voice import make_unfailing, say, warn
make_unfailing()
for i in range(4000):
    print("line", i, "Jos\\udce9 \\u2192")
say("\\udcff"); warn("\\udcff")
print("worked", file=sys.stderr)
"""


def talk(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-o", "pipefail", "-c", shell, sys.executable, TALK]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment},
        timeout=300, cwd=__file__.rpartition("/tests/")[0],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ('"$0" -c "$1" > /dev/full', "No space left on device"),
        ('"$0" -c "$1" | head -3', "Broken pipe"),
        ('"$0" -c "$1" >&-', ""),
        ('"$0" -c "$1"', ""),
    ],
)
def test_output_that_fails_never_costs_the_work(shell, told):
    done = talk(shell)
    assert done.returncode == 0, done.stderr
    assert "worked" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.stderr.count("cannot be written") == bool(told)
    assert told in done.stderr


def test_neither_stream_works():
    assert talk('"$0" -c "$1" > /dev/full 2> /dev/full').returncode == 0
    assert talk('"$0" -c "$1" >&- 2>&-').returncode == 0


PLACES = """
import os, sys
from eyescream_py.system.voice import make_unfailing
make_unfailing()
with open(sys.argv[1], "wb") as file:
    file.write(b"kept")
    file.flush()
    for place in (1, 2):
        os.write(place, b"a library complains")
print("hello")
"""


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-", "<&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed, tmp_path):
    command = ["bash", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, PLACES,
               str(tmp_path / "file")]  # fmt: skip
    root = __file__.rpartition("/tests/")[0]
    done = subprocess.run(command, capture_output=True, timeout=300, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_what_a_terminal_cannot_show_is_written_in_ascii():
    done = talk('"$0" -c "$1"', LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.stdout.startswith("line 0 Jos\\udce9 \\u2192\n")


def test_printable():
    assert printable("José") == "José"
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"
    assert printable("\udce9") == "\\udce9"


@pytest.mark.parametrize(
    ("number", "words", "told"),
    [
        (0, ("picture",), "0 pictures"),
        (1, ("picture",), "1 picture"),
        (2, ("held-out face",), "2 held-out faces"),
        (2, ("batch",), "2 batches"),
        (1, ("entry", "entries"), "1 entry"),
        (3, ("entry", "entries"), "3 entries"),
    ],
)
def test_a_count_and_its_noun_agree(number, words, told):
    assert counted(number, *words) == told


@pytest.mark.parametrize("name", ["logs", "my run", "it's", "a;b", "$HOME", "写真"])
def test_a_shell_takes_a_path_that_is_to_be_typed_for_one_word(name):
    done = subprocess.run(
        ["bash", "-c", f"printf %s {as_typed(Path(name))}"], capture_output=True, text=True
    )
    assert done.stdout == name
