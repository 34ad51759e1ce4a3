"""Nodes by their labels, such as the kind of their GPUs: what Ray's label selectors say, for planning."""

from __future__ import annotations

import re
from collections.abc import Mapping

Labels = Mapping[str, str]


def matches(labels: Labels, selectors: Labels) -> bool:
    """Whether all selectors name a node with these labels: `H100`, `!H100`, `in(H100, H200)` or
    `!in(H100, H200)` of each. A label that it lacks has no value."""
    return all(_matches(labels.get(label), selector) for label, selector in selectors.items())


def _matches(value: str | None, selector: str) -> bool:
    wanted = selector.removeprefix("!")
    listed = re.fullmatch(r"in\((.+)\)", wanted)
    values = re.split(", ?", listed[1]) if listed else [wanted]
    return (value in values) != selector.startswith("!")


def said(selectors: Labels) -> str:
    """For people: " with gpu=H100", or nothing."""
    return " with " + ", ".join(f"{k}={v}" for k, v in selectors.items()) if selectors else ""
