"""What a file is that is no Torch 7 file, in words for a person."""

from ..errors import T7Error
from .ascii_format import BOM
from .source import Source

_START_BYTES = 300
_TAR_MAGIC = 257  # where a tar archive says that it is one
_BEGINNINGS = (
    (b"PK\x03\x04", "a zip archive (PyTorch's own .pt/.pth files are such)"),
    (b"\x80", "a Python pickle (an old PyTorch .pth file?)"),
    ((b"(dp", b"(lp", b"}q\0", b"]q\0"), "a Python pickle"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x89HDF", "an HDF5 file (of Keras?)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"MATLAB", "a MATLAB file"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program or library"),
    (b"GGUF", "a GGUF file"),
    ((b"\x1bLua", b"\x1bLJ"), "a compiled Lua program"),
    (b"return", "a Lua program"),
    (b"{", "a JSON text"),
    (b"404", "an error message: the download gave no file"),
    (b"<", "an HTML or XML page: the download gave a page, not the file"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
)


def check_start(source: Source, ascii: bool | None) -> bool:
    """Whether the file begins as an ASCII file. Raises T7Error for files of another kind."""
    source.load_window(0, min(source.size, _START_BYTES))
    start = bytes(source.window[:_START_BYTES])
    if not start:
        raise T7Error("not a Torch 7 file: it is empty", 0)
    text = start.removeprefix(BOM)
    looks_ascii = text[:1] in b"012345678" and text[1:2] in (b"\n", b"\r")
    if ascii is False and looks_ascii:
        raise T7Error("this file is ASCII, but was opened as binary", 0)
    if ascii and not looks_ascii:
        raise T7Error("this file is not ASCII, but was opened as such", 0)
    if kind := _kind(start, source.size):
        raise T7Error(f"not a Torch 7 file: it is {kind}", 0)
    tag = start[3::-1] if is_big_endian(source) else start[:4]
    if not looks_ascii and (tag[0] > 8 or any(tag[1:])):
        raise T7Error(f"not a Torch 7 file: it begins with {start[:8]!r}", 0)
    return looks_ascii


def is_big_endian(source: Source) -> bool:
    """Whether the file's first integer is a tag, and not 0, with the highest byte first."""
    return source.size > 3 and not any(source.window[:3]) and 1 <= source.window[3] <= 8


def _kind(start: bytes, size: int) -> str:
    """What such a file is; "" where nothing says so."""
    bare = start.lstrip(BOM + b" \r\n\t")
    for magic, kind in _BEGINNINGS:
        if bare.startswith(magic):
            return kind
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < size:
        return "a safetensors file"
    if start[_TAR_MAGIC : _TAR_MAGIC + 5] == b"ustar":
        return "a tar archive: unpack it first"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return "an ONNX model"
    if start[:1] == b"\n" and _is_name(start[1:]) and not _is_text(start):
        return "of Google's protocol buffers (Caffe's .caffemodel, TensorFlow's .pb?)"
    return ""


def _is_name(field: bytes) -> bool:
    """Whether bytes begin with a length and so much of ASCII text."""
    return len(field) > 1 and field[1 : 1 + field[0]].isascii()


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in start)
