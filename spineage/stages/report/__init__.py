"""report: from the study's tables and a few slices to one HTML file."""
