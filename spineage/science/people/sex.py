"""Sex as archives and tables write it, in one of three letters; what is not a known word is unknown."""

from __future__ import annotations

import unicodedata
from typing import Final

FEMALE: Final = """
f w female woman girl femme feminin féminin fille frau weiblich weibl mujer femenino femenina hembra mulher
feminino feminina donna femmina femminile vrouw vrouwelijk kvinna kvinde kvinne nainen kobieta žena женщина
женский жен ж жінка 女 女性 여 여성 여자 kadın kadin أنثى נקבה महिला perempuan wanita nữ γυναίκα femeie nő
"""
MALE: Final = """
m h male man boy homme masculin garçon mann männlich maennlich männl hombre masculino varón varon macho homem
uomo maschio maschile mannelijk mand mies mężczyzna muž мужчина мужской муж чоловік 男 男性 남 남성 남자 erkek
ذكر זכר पुरुष laki-laki pria nam άνδρας bărbat férfi
"""
OTHER: Final = """
o x d other divers diverse intersex nonbinary non-binary otro autre outro altro anders annat andet
"""
NOT_KNOWN: Final = """
u unk unknown n/a na nan none null - ? . unbekannt inconnu desconocido desconhecido sconosciuto onbekend okänd
ukendt ukjent
"""


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


LETTERS: Final = {
    _plain(word): letter
    for letter, words in (("F", FEMALE), ("M", MALE), ("O", OTHER))
    for word in words.split()
}
_NOTHING: Final = {"", *map(_plain, NOT_KNOWN.split())}


def sex_of(text: str) -> str | None:
    """F, M or O; None for what is unknown or no known word.

    Numbers are no known words: 1 is male in one archive and female in another.
    """
    return LETTERS.get(_plain(text))


def is_understood(text: str) -> bool:
    """Whether the text is a known word, or says that nothing is known."""
    return _plain(text) in LETTERS or _plain(text) in _NOTHING
