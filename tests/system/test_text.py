"""Lines of files that people wrote."""

import pytest

from eyescream_py.system.text import read_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", []), (b"a", ["a"]), (b"a\n", ["a"]), (b"\xef\xbb\xbfa\r\n\r\nb", ["a", "", "b"]),
     ("a\u2028b\x85c\n".encode(), ["a\u2028b\x85c"]), (b"Jos\xe9.jpg", ["Jos\udce9.jpg"]),
     (b"a\rb\n", ["a\rb"])],
)  # fmt: skip
def test_lines(content, lines, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    assert read_lines(path) == lines


def test_what_never_ends_is_refused(tmp_path):
    with pytest.raises(OSError, match="File too large"):
        read_lines("/dev/zero", most=1 << 16)
    with pytest.raises(OSError, match="no file"):
        read_lines("/dev/zero", most=None)
    path = tmp_path / "list.txt"
    path.write_bytes(b"ab\n")
    assert read_lines(path, most=3) == ["ab"]
    with pytest.raises(OSError, match="File too large"):
        read_lines(path, most=2)
