"""Where a tracking server keeps files: what it names as a place may be anybody's server.

Whoever may publish a version names the place of its files, and whoever may make an experiment that of its
runs. MLflow's client sends the user's login to whatever web server such a place names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

SERVED: Final = "/api/2.0/mlflow-artifacts/artifacts/"
"""The path below which an MLflow server hands out files."""
_WEB: Final = ("http", "https")
_PORTS: Final = {"http": 80, "https": 443}
_STRANGE: Final = re.compile(r"[\s\\@?#]")
"""What readers of addresses disagree about where a host ends."""


def is_on_a_server(place: str) -> bool:
    """Whether files there are asked of a web server, with the login of the tracking server."""
    return _scheme(place) in (*_WEB, "mlflow-artifacts")


def is_served_by(place: str, tracking_uri: str) -> bool:
    """Whether this place on a web server is one of the tracking server's own."""
    if _STRANGE.search(place) or _climbs(place):
        return False
    try:
        parts, home = urlsplit(place), urlsplit(tracking_uri)
        server = (home.scheme, home.hostname, home.port or _PORTS.get(home.scheme))
        if home.scheme not in _WEB:
            return False
        if parts.scheme in _WEB:
            found = (parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
            return found == server and parts.path.startswith(home.path.rstrip("/") + SERVED)
        if not parts.netloc:
            return parts.path.startswith("/")
        return (parts.hostname, parts.port or _PORTS[home.scheme]) == server[1:]
    except ValueError:  # a port that is no number, a bracket without its pair
        return False


def lies_within(place: str, folders: Iterable[str]) -> bool:
    """Whether this path or place on object storage is one of the folders, or in one of them."""
    roots = [folder.rstrip("/") for folder in folders if folder.strip("/")]
    return not _climbs(place) and any(f"{place}/".startswith(f"{root}/") for root in roots)


def _scheme(place: str) -> str:
    return re.sub(r"[\x00-\x20]", "", place).partition(":")[0].lower()  # as parsers of addresses do


def _climbs(place: str) -> bool:
    while (read := unquote(place)) != place:
        place = read
    return ".." in re.split(r"[/\\]", place)
