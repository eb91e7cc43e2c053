"""The error of everything in this room that meets a file or a value it cannot take."""


class T7Error(ValueError):
    """What is wrong with a Torch 7 file, or with a value that was to be written to one.

    `offset` is the byte of the file where the bad item begins, or None when writing.
    """

    def __init__(self, message: str, offset: int | None = None):
        self.message = message
        self.offset = offset
        super().__init__(message if offset is None else f"{message} (at byte {offset})")


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice, which says nothing about a file: for Python's objects,
    torch's tensors, or torch itself."""
    says = str(error)
    return (
        isinstance(error, MemoryError)
        or "can't allocate memory" in says
        or "failed to map segment" in says
    )
