"""The licences of what is installed, as a table; exit code 1 for what an Apache-2.0 project may not load.

    python .github/licences.py [--only LOCK_FILE]

Read from the packages' own metadata. Permissive licences pass. The weak copyleft ones (LGPL, MPL) and those
that nobody recognises need an entry in licences.toml beside this file: somebody has looked and says why it
is well. No entry lets GPL or AGPL pass. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

REVIEWED = Path(__file__).with_name("licences.toml")
PERMISSIVE = re.compile(
    r"(the )?("
    r"apache([ -]?2(\.0)?| license| software license)*( with llvm-exception)?|apache license, version 2\.0"
    r"|(0|[23]-clause )?bsd([ -][23][ -]clause)?( license)?|mit(-0|-cmu)?( license)?( \(mit\))?"
    r"|isc( license)?( \(iscl\))?|zlib|cc0-1\.0|bsl-1\.0|psf-2\.0|cnri-python|unlicense|hpnd"
    r"|python software foundation license|public domain"
    r")"
)
STRONG = re.compile(r"\ba?gpl|general public license")
WEAK = re.compile(r"\blgpl|lesser general public|library general public")


@dataclass(frozen=True)
class Found:
    """One package: what it says of its licence, and what follows from that ("" where all is well)."""

    name: str
    version: str
    licence: str
    trouble: str
    note: str = ""


def licence_of(package: Distribution) -> str:
    """The most exact thing a package says: an SPDX expression, classifiers, or a line of free text."""
    told = package.metadata
    expression = told.get("License-Expression")
    if expression:
        return str(expression)
    kinds = [c.split(" :: ")[-1] for c in told.get_all("Classifier", []) if c.startswith("License")]
    kinds = [kind for kind in kinds if kind not in ("OSI Approved", "DFSG approved")]
    lines = [line.strip() for line in str(told.get("License") or "").splitlines() if line.strip()]
    return " AND ".join(kinds) or (lines[0][:60] if lines and lines[0] != "UNKNOWN" else "")


def is_permissive(licence: str) -> bool:
    """Every part, or one of the parts that one may choose from, is a permissive licence."""
    choices = re.split(r"\s+or\s+", licence.lower().replace("(mit)", "").replace("(iscl)", ""))
    return any(
        all(PERMISSIVE.fullmatch(part.strip(" ()")) for part in re.split(r"\s+and\s+", choice))
        for choice in choices
    )


def is_strong_copyleft(licence: str) -> bool:
    """GPL or AGPL, and nothing else to choose."""
    lower = licence.lower()
    return bool(STRONG.search(WEAK.sub("", lower))) and not is_permissive(licence)


def look_at(package: Distribution, reviewed: Mapping[str, Mapping[str, Any]]) -> Found:
    """What there is to say of one package."""
    name, licence = str(package.metadata["Name"]), licence_of(package)
    entry, trouble, note = reviewed.get(plain(name)), "", ""
    if is_strong_copyleft(licence):
        trouble = "GPL in the process makes the whole GPL: use another package"
    elif entry and entry["licence"] == licence:
        note = str(entry["reason"])
    elif entry:
        trouble = f"was looked at as {entry['licence']!r}: look again, then change licences.toml"
    elif not is_permissive(licence):
        trouble = "nobody has looked at it: read its licence, then write why in licences.toml"
    return Found(name, str(package.version), licence or "says none", trouble, note)


def plain(name: str) -> str:
    """A package's name as all spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named_in(lock: Path) -> set[str]:
    """The packages of a requirements file."""
    lines = (line.split("#")[0].strip() for line in lock.read_text().splitlines())
    return {plain(re.split(r"[=<>\[; ]", line)[0]) for line in lines if line}


def survey(
    packages: Iterable[Distribution], reviewed: Mapping[str, Mapping[str, Any]]
) -> Iterator[Found]:
    """One line a package, by name; a package installed twice is told once."""
    by_name = {plain(str(package.metadata["Name"])): package for package in packages}
    for name in sorted(by_name):
        yield look_at(by_name[name], reviewed)


def table(rows: list[Found]) -> str:
    """Columns that line up."""
    heads = [Found("package", "version", "licence", "", "what was said of it"), *rows]
    wide = [max(len(getattr(row, key)) for row in heads) for key in ("name", "version", "licence")]
    return "\n".join(
        f"{row.name:{wide[0]}}  {row.version:{wide[1]}}  {row.licence:{wide[2]}}  {row.note}".rstrip()
        for row in heads
    )


def main(words: list[str] | None = None) -> int:
    """Print the table, then what is wrong; 1 when anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=Path, help="look at the packages of this lock file alone")
    parser.add_argument("--path", action="append", help="look here instead of in this environment")
    given = parser.parse_args(words)
    reviewed = {plain(n): e for n, e in tomllib.loads(REVIEWED.read_text()).items()}
    where = {"path": given.path} if given.path else {}
    packages = list(importlib.metadata.distributions(**where))
    if given.only:
        wanted = named_in(given.only)
        packages = [p for p in packages if plain(str(p.metadata["Name"])) in wanted]
    rows = list(survey(packages, reviewed))
    print(table(rows))
    wrong = [row for row in rows if row.trouble]
    for row in wrong:
        print(f"{row.name} {row.version} ({row.licence}): {row.trouble}", file=sys.stderr)
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
