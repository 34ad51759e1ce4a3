"""cohort: who is normal, once and over many draws."""
