"""The error of everything in this room that meets a file or a value it cannot take."""


class T7Error(ValueError):
    """What is wrong with a Torch 7 file, or with a value that was to be written to one.

    `offset` is the byte of the file where the bad item begins, or None when writing.
    """

    def __init__(self, message: str, offset: int | None = None):
        self.message = message
        self.offset = offset
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
