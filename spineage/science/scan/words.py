"""The few words of a description that matter, in the languages scanners speak.

Descriptions and file names are free text and hold names of people. What leaves the reader is only
which words of this closed list occur, never the text.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

# Word -> pattern on lower-case text without accents, where every separator has become one blank.
_PATTERNS: Final[dict[str, str]] = {
    "t1": r"\bt1",
    "t2": r"\bt2(?! ?(\*|star|map))|\bt2w",
    "t2star": r"\bt2 ?(\*|star)",
    "pd": r"\b(pd|pdw|protonendichte)\b",
    "stir": r"\b(t2w? ?)?(stir\w*|tirm\w*|ir tse|ir fse|flair|inversion recovery)\b",
    "fat suppressed": r"\b(t2w? ?)?(fs|fat ?sat\w*|fat ?sup\w*|fettges\w*|fettunter\w*|spair|spir|chess"
    r"|proset|water ?excitation|supp?ression graisse|satur?ation graisse)\b",
    "water": r"\bm?dixon (\w+ )*w\b|\bwater\b(?! ?(excitation|fat))|\bideal w\b",
    "fat": r"\bm?dixon (\w+ )*f\b|\bfat\b(?! ?(sat|sup|free|frac))",
    "opposed": r"\bm?dixon (\w+ )*(op|opp|out)\b|\b(opp|opposed|out of|out) ?phase\b",
    "in phase": r"\bm?dixon (\w+ )*(ip|in)\b|\bin ?phase\b",
    "ct": r"\bct\b",
    "map": r"\b(adc|fa|dwi|dti|trace|map|mtr|mip|phase|fieldmap|b0|b1)\b",
    "labels": r"\b(seg|dseg|mask|msk|label|labels|levels|disc|discs|gt|manual)\b",
    "sagittal": r"\bsag(it\w*)?\b",
    "axial": r"\b(ax|axial|tra|transv\w*|axiale?)\b",
    "coronal": r"\b(cor|coronal\w*|koronar)\b",
    "localizer": r"\b(loc|localiz\w*|localis\w*|lokali\w*|scout|survey|3 ?plane|topogram|pilot|planning"
    r"|reperage|uebersicht|übersicht|localizador)\b|位置決め|定位",
    "spine": r"\b(\w*spine|spinal|lumb\w*|lumbo\w*|cervic\w*|thorac\w*|dorsal\w*|sacr\w*|vertebra\w*"
    r"|wirbel\w*|\w*wirbelsaeule|\w*wirbelsaule|rachis\w*|colonna|columna|coluna|hws|bws|lws|wks"
    r"|wervelkolom|kregoslup|cspine|tspine|lspine|lsspine|neuroaxis|myel\w*)\b|脊|椎|позвон|хребе",
    "head": r"\b(brain|head|skull|crani\w*|cerebr\w*|kopf|schaedel|schadel|tete|cabeza|testa|orbits?"
    r"|pituitary|hypophys\w*|cabeca|hersenen|mozg\w*)\b|脳|頭|颅|мозг",
    "other body": r"\b(knee|shoulder|hip|hips|pelvis|pelvic|abdomen|abdominal|liver|kidney|prostate"
    r"|breast|heart|cardiac|ankle|foot|wrist|hand|elbow|femur|thigh|uterus|rectum|bladder|knie"
    r"|schulter|huefte|becken|genou|epaule|rodilla|hombro|ginocchio|spalla|tmj)\b",
}
_COMPILED: Final = {word: re.compile(pattern) for word, pattern in _PATTERNS.items()}
BETWEEN: Final = "|"
"""Two texts: what one ends with and the next begins with are no words together."""
_SEPARATORS: Final = re.compile(r"[\s_\-.,;:/\\()\[\]=+^]+")


@functools.lru_cache(maxsize=1024)
def words_in(*texts: str) -> frozenset[str]:
    """Which words of the closed list occur in any of the texts."""
    folded = f" {BETWEEN} ".join(_folded(text) for text in texts if text)
    return frozenset(word for word, pattern in _COMPILED.items() if pattern.search(folded))


def _folded(text: str) -> str:
    """Lower case, no accents (Latin only: other scripts keep their letters), one blank between words."""
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFC", plain)).strip()
