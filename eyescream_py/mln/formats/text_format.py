"""The text of Params.txt: one `key value` per line, values with blanks as JSON strings."""

from __future__ import annotations

import json
from typing import Any

from eyescream_py.system.errors import UserError


def parse_text(text: str, name: str = "Params.txt") -> dict[str, int | float | str]:
    """Lines of `key value` -> values as int, else float, else string; lines under 3 characters are
    skipped.

    A value in double quotes is a JSON string: it may hold blanks and stays text. A byte-order mark
    is dropped. Raises UserError for a line of other than two tokens (file and line number) and for
    a key given twice.
    """
    values: dict[str, int | float | str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if len(line.strip()) < 3:
            continue
        key, value = _key_and_value(line.strip(), f"{name}, line {number}")
        if key in values:
            raise UserError(f"{name}, line {number}: {key} is given a second time; keep one")
        values[key] = value
    return values


def _key_and_value(line: str, place: str) -> tuple[str, int | float | str]:
    key, *rest = line.split(maxsplit=1)
    value = rest[0] if rest else ""
    if value.startswith('"'):
        try:
            return key, str(json.loads(value))
        except ValueError:
            raise UserError(
                f"{place}: {value[:60]}: close the double quotes (in them \\\\ is one \\)"
            ) from None
    tokens = line.split()
    if len(tokens) != 2:
        raise UserError(
            f"{place}: {len(tokens)} words instead of `key value`: {line[:60]!r}; "
            "put a value with blanks in double quotes"
        )
    return key, _number_or_text(value)


def _number_or_text(token: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            continue
    return token


def written(value: Any) -> str:
    """The value as text; in quotes where a bare word would not read back as the same text."""
    plain = str(value)
    if not isinstance(value, str):
        return plain
    bare = plain.split() == [plain] and plain[0] != '"' and len(plain) < 4096
    try:
        plain.encode()
    except UnicodeEncodeError:  # a file name of bytes that are no UTF-8
        return json.dumps(plain)
    same = bare and _number_or_text(plain) == plain
    return plain if same else json.dumps(plain, ensure_ascii=False)
