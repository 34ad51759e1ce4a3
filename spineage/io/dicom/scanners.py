"""Makers and models of scanners by their known names. Free text of any other is hashed: people edit it."""

from __future__ import annotations

from typing import Final

from spineage.io.people.identity import Keyed

VENDORS: Final = {
    "siemens": "Siemens", "philips": "Philips", "ge ": "GE", "hitachi": "Hitachi", "fuji": "Fujifilm",
    "toshiba": "Canon", "canon": "Canon", "uih": "United Imaging", "united imaging": "United Imaging",
    "hyperfine": "Hyperfine", "esaote": "Esaote", "fonar": "Fonar", "paramed": "Paramed",
    "bruker": "Bruker", "neusoft": "Neusoft", "spineage-phantom": "spineage-phantom",
}  # fmt: skip
"""Start of the manufacturer's text, in lower case -> its usual name."""

MODEL_WORDS: Final = frozenset(
    {"achieva", "ingenia", "intera", "panorama", "ambition", "elition", "evolution", "mr", "5300", "7700",
     "signa", "discovery", "optima", "brivo", "premier", "artist", "pioneer", "voyager", "architect",
     "creator", "explorer", "hdx", "hdxt", "excite", "mr355", "mr360", "mr450", "mr450w", "mr750", "mr750w",
     "magnetom", "aera", "altea", "amira", "avanto", "avanto_fit", "biograph", "cima", "essenza", "espree",
     "free.max", "harmony", "impact", "lumina", "mmr", "prisma", "prisma_fit", "sempra", "skyra",
     "skyra_fit", "sola", "spectra", "symphony", "symphonytim", "terra", "trio", "triotim", "verio", "vida",
     "sonata", "allegra", "concerto", "airis", "airis_vento", "aperto", "echelon", "oval", "oasis",
     "vantage", "titan", "galan", "orian", "atlas", "elan", "fortian", "centurian", "umr", "swoop",
     "e-scan", "s-scan", "g-scan", "o-scan", "upright", "phantom", "1.5t", "3t", "3.0t"}
)  # fmt: skip


def vendor_of(text: str, keyed: Keyed) -> str | None:
    """The maker by its usual name, a hash for an unknown one, None for none."""
    low = f"{text.strip().lower()} "
    known = [name for start, name in VENDORS.items() if low.startswith(start)]
    if known:
        return known[0]
    return keyed.word("vendor", text) if text.strip() else None


def model_of(text: str, keyed: Keyed) -> str | None:
    """The known words of the model's name; with none known, a hash that still tells models apart."""
    known = " ".join(word for word in text.split() if word.lower() in MODEL_WORDS)
    if known:
        return known
    return keyed.word("model", text) if text.strip() else None
