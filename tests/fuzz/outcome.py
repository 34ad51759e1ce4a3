"""How one damaged input ended: accepted, or refused as the house refuses; all else is wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from spineage.errors import BadScan, BadStudy
from tests.fuzz.corpus import CANARY

MAX_MESSAGE = 1000
Answer = dict[str, object]
Trial = Callable[[int, int], Answer]
"""Of a seed and a number: what one input came to. `ends`: how each part of it ended; or `wrong`."""


def outcome(work: Callable[[], object]) -> Answer:
    """Do it once. ends: "accepted", a fault code or "refused"; wrong: an exception, or what it says."""
    try:
        work()
    except BadScan as fault:
        return _judged(fault.code, str(fault))
    except BadStudy as error:
        return _judged("refused", str(error))
    except BaseException as error:
        return {"wrong": raised(error)}
    return {"ends": ["accepted"]}


def raised(error: BaseException) -> str:
    """Its type and place, innermost of ours and innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/spineage/" in f.filename and "site-packages" not in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in ours[-1:] + frames[-1:]]
    where = " < ".join(dict.fromkeys(places))
    return f"{type(error).__name__} at {where}"


def _judged(end: str, message: str) -> Answer:
    if CANARY.lower()[:8] in message.lower():
        return {"wrong": "a message quotes a name"}
    if "\n" in message or len(message) > MAX_MESSAGE:
        return {"wrong": f"no short sentence: {message[:80]!r}"}
    return {"ends": [end]}
