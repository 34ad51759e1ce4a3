"""What a person can be called, and what stands for a group where there is none."""

from __future__ import annotations

NORMAL, UNCERTAIN, NOT_NORMAL, UNKNOWN = "normal", "uncertain", "not_normal", "unknown"
STATUSES = (NORMAL, UNCERTAIN, NOT_NORMAL, UNKNOWN)
NOT_CLUSTERED = -2
"""The group of people who were not placed."""
