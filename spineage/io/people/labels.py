"""BIDS labels (`sub-01`), and the data set within which one is one person's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from spineage.io.files.archive import MARK

DERIVATIVES: Final = "derivatives"
WITHIN: Final = (DERIVATIVES, "rawdata", "sourcedata")
"""Folders of one BIDS data set that hold the people's folders once more."""


def is_label(text: str) -> bool:
    """Whether an id has the form of a BIDS label: it may be another person's in another data set."""
    return re.fullmatch(r"sub-[^_]+", text) is not None


def data_set_above(name: str, label: str) -> str | None:
    """The folder that holds the person's own folder, None when the file lies in none.

    name: the path below the input folder. Only a folder of just that label ends the data set: hospitals
    within `rawdata`, or studies that are called `sub-a` and `sub-b`, are data sets of their own. The
    innermost counts, since it is safer to refuse one person than to join two.
    """
    folders = _folders(name)
    own = [n for n, folder in enumerate(folders) if folder in (label, f"{label}.zip")]
    return _data_set(folders[: own[-1]]) if own else None


def data_set_beside(name: str) -> str:
    """The data set of a file whose person has no folder: the folder it lies in."""
    return _data_set(_folders(name))


def _folders(name: str) -> Sequence[str]:
    return PurePosixPath(name.replace(MARK, "/")).parent.parts


def _data_set(folders: Sequence[str]) -> str:
    """Without the folders of WITHIN right at its end, and without a pipeline's below derivatives."""
    while folders:
        if folders[-1] in WITHIN:
            folders = folders[:-1]
        elif folders[-2:-1] and folders[-2] == DERIVATIVES:
            folders = folders[:-2]
        else:
            break
    return "/".join(folders)
