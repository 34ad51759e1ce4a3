"""The world at the edge: disks, DICOM, foreign tools. Orientation and units are settled here."""
