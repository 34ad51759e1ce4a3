"""How a stage went, in numbers: what it says at its end, and what its run record keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REFUSED, UNUSED, LEFT = "refused:", "unused:", "left"


@dataclass(frozen=True)
class Counts:
    """What there is now, and what is missing for which reason.

    done: by name, such as scored or people_normal. refused: scans by fault code, for good. unused: files by
    the code that says why (ingest). left: scans that the next run takes up, None where a stage leaves none.
    """

    done: Mapping[str, int]
    refused: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    left: int | None = None

    def flat(self) -> dict[str, int]:
        """One number a name, as a run record keeps them; a code after `refused:` or `unused:`."""
        return {
            **self.done,
            **{REFUSED + code: self.refused[code] for code in sorted(self.refused)},
            **{UNUSED + code: self.unused[code] for code in sorted(self.unused)},
            **({} if self.left is None else {LEFT: self.left}),
        }


def read_counts(flat: Mapping[str, int]) -> Counts:
    """The counts whose flat form this is."""
    refused = {k.removeprefix(REFUSED): n for k, n in flat.items() if k.startswith(REFUSED)}
    unused = {k.removeprefix(UNUSED): n for k, n in flat.items() if k.startswith(UNUSED)}
    done = {k: n for k, n in flat.items() if not k.startswith((REFUSED, UNUSED)) and k != LEFT}
    return Counts(done, refused, unused, flat.get(LEFT))
