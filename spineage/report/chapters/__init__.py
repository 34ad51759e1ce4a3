"""The chapters of the report, one a file: from evidence to words, tables and figures."""
