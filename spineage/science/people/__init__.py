"""Whose picture it is, as far as it may be said: age, sex, one person or two, and which words are quoted."""
