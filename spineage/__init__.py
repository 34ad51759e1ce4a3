"""From whole-spine sagittal T2 MRI to a spine age and a spine age gap. Read `flow.py` first."""

__version__ = "0.1.0"
