"""Addresses as they may be shown and kept: without logins, tokens and signatures."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Final

_CHAIN: Final = r"(?:[\w+.-]++::)*+"
_SCHEME: Final = r"(?<![\w+.-])[\w+.-]++://"
"""From where a word begins and without going back, so that a long text costs no more than its length."""
_BLANKS: Final = r" \t\n\r\f\v"
"""What ends a word: not a blank outside ASCII, which comes into a password by copying."""
_LOGIN: Final = re.compile(
    rf"(?P<scheme>{_SCHEME})(?:[^{_BLANKS}/@:]*:[^{_BLANKS}]*|[^{_BLANKS}/@]*)@"
)
"""A password may hold any character, a slash too, so a login with one ends at the last `@` of the word."""
_QUOTED: Final = re.compile(
    rf"(?P<quote>['\"])(?P<scheme>{_CHAIN}{_SCHEME})(?:(?!(?P=quote))[^/@:])*(?::(?:(?!(?P=quote)).)*)?@",
    re.DOTALL,
)
"""And at the last `@` within quotes, where a blank ends nothing."""
_WHOLE: Final = re.compile(
    rf"\s*(?P<scheme>{_CHAIN}{_SCHEME})(?:(?:[^/@:]*:.*|[^/@]*)@)?", re.DOTALL
)
_QUERY: Final = re.compile(
    rf"(?P<address>{_SCHEME}[^{_BLANKS}?'\"]*?)(?:\?|[;#](?=[\w.-]+=))[^{_BLANKS}'\"]*"
)
"""`?name=value`, `;name=value` or `#name=value`."""
_QUERY_BEGINS: Final = re.compile(r"\?|[;#](?=[\w.-]+=)")
_SETTING: Final = re.compile(
    r"(?is)(?<![\w-])"
    r"(?=[\w-]*?(?:password|passwd|passphrase|pwd|secret|token|access_?key|account_?key|signature))"
    r"(?P<name>[\w-]++)(?P<sign>\s?=\s?)"
    r"(?:(?P<quote>\\*['\"])(?:(?!(?P=quote))(?:\\.|.))*(?P=quote)|['\"]?(?:[^\s&;,'\")]|['\"](?=\w))+)"
)


def without_logins(text: str) -> str:
    """The text, in which every address has lost its login and its query, and `password=...` its value."""
    text = _QUOTED.sub(r"\g<quote>\g<scheme>", text)
    text = _LOGIN.sub(r"\g<scheme>", text)
    text = _QUERY.sub(r"\g<address>", text)
    return _SETTING.sub(r"\g<name>\g<sign>***", text)


def _without_login(value: str) -> str:
    """The same for a text that is one address alone, or none: a blank in it ends neither login nor query."""
    login = _WHOLE.match(value)
    if login:
        value = login["scheme"] + _QUERY_BEGINS.split(value[login.end() :], maxsplit=1)[0]
    return without_logins(value)


def strip_logins(value: Any) -> Any:
    """The same for every text in nested plain values, each of which may be one address with blanks in it."""
    if isinstance(value, str):
        return _without_login(value)
    if isinstance(value, dict):
        return {key: strip_logins(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strip_logins(entry) for entry in value]
    return value


def digest_of_place(location: str) -> str:
    """16 hex digits that tell one location from another and do not say where it is; the login is no part of
    it."""
    place = without_logins(location) if "://" in location else os.path.abspath(location)
    return hashlib.sha256(place.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:16]
