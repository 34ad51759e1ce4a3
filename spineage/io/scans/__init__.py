"""Any file of the input, and one scan from its files."""
