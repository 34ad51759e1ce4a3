"""Reading a study file that may hold anything: limits before YAML builds a value, one short sentence after.

A study is a page of plain values. A file that is larger, nested deeper or refers to itself is no study, and
is refused before it can fill the memory (a kilobyte of aliases to aliases stands for a billion values).
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from spineage.errors import BadStudy
from spineage.uris import without_logins

MAX_BYTES: Final = 1 << 17
"""A study with every key and its reason has 10 KB."""
MAX_DEPTH: Final = 8
MAX_TEXT: Final = 4096
"""Of one value; no system has longer paths."""
MAX_FAULTS: Final = 3
MAX_SENTENCE: Final = 380
_UNSEEN: Final = ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs")


class _Plain(yaml.SafeLoader):
    """YAML without aliases, doubled keys and deep nesting."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (`*name`) is not read: write the value out", self)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"it is nested more than {MAX_DEPTH} deep", self)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for doubled in (key for key, times in Counter(keys).items() if times > 1):
            raise yaml.MarkedYAMLError(
                problem=f"{_short(doubled)} is there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def _refused(problem: str, loader: _Plain) -> yaml.MarkedYAMLError:
    event = loader.peek_event()
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def read_values(path: Path) -> dict[Any, Any]:
    """The file as plain values. Raises BadStudy when it is missing, too large, or no YAML mapping."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadStudy(f"no study file at {path}: write one with `spineage init {path}`") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file has such a name"
        raise BadStudy(f"the study file {_short(str(path))} cannot be read ({reason})") from None
    if len(data) > MAX_BYTES:
        raise BadStudy(f"{path} has more than {MAX_BYTES} bytes: it is no study file")
    try:
        values = yaml.load(data.decode(), _Plain) or {}
    except (
        Exception
    ) as error:  # tags of the file choose what PyYAML calls: it raises whatever that raises
        raise BadStudy(_cut(f"{path} cannot be read as YAML: {_reason(error)}")) from None
    if not isinstance(values, dict):
        raise BadStudy(f"{path} holds a {type(values).__name__}, expected keys such as `inputs:`")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark
        return f"{error.problem}{f' (line {mark.line + 1})' if mark else ''}"
    return " ".join(str(error).split()) if isinstance(error, ValueError) else type(error).__name__


def refuse_strange_text(values: Any, where: str) -> None:
    """Raise BadStudy for a text that is no name, number or path: too long, or with control characters."""
    for key, text in _texts(values, ""):
        if len(text) > MAX_TEXT:
            raise BadStudy(f"{where}: {key} has {len(text)} characters, at most {MAX_TEXT}")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            raise BadStudy(f"{where}: {key} holds a control character: write it without")


def refuse_blanks_in_addresses(values: Any, where: str) -> None:
    """Raise BadStudy for an address with a blank or an invisible letter, which hides where its login ends."""
    for key, text in _texts(values, ""):
        if "://" in text and any(unicodedata.category(letter) in _UNSEEN for letter in text):
            raise BadStudy(
                f"{where}: {key} is an address that holds a blank or an invisible letter: write %20 for a "
                "blank, and percent codes for others"
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text within nested values, keys too, with the place it is found at."""
    if isinstance(value, str):
        yield _short(place, "a key"), value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(key, place)
            yield from _texts(entry, f"{place}.{key}".lstrip(".")[:200])
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry, place)


def sentence_of(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """What does not fit, in one short sentence: the first faults, and how many more there are."""
    faults = error.errors(include_url=False, include_context=False)
    said = [_fault(fault, model) for fault in faults[:MAX_FAULTS]]
    more = f"; and {len(faults) - len(said)} more" if len(faults) > len(said) else ""
    return _cut(f"{where}: {'; '.join(said)}", more)


def _fault(fault: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        got = without_logins(
            repr(fault["input"])
        )  # before it is cut, which would hide where a login ends
        return f"{_short(without_logins(place), 'study')}: {message}, got {_short(got)}"
    section: Any = model
    for part in fault["loc"][:-1]:
        section = section.model_fields[part].annotation
    known = [field.alias or name for name, field in section.model_fields.items()]
    key = str(fault["loc"][-1])[:100]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {_short(without_logins(place))}: did you mean {near[0]!r}?"


def _short(text: str, otherwise: str = "''", most: int = 60) -> str:
    """Printable, and no longer than a glance."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return (shown[:most] + "..." if len(text) > most else shown) or otherwise


def _cut(sentence: str, end: str = "") -> str:
    most = MAX_SENTENCE - len(end)
    return (sentence if len(sentence) <= most else sentence[: most - 3] + "...") + end
