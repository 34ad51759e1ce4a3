"""ingest: from files to series, scans and refusals."""
