"""DICOM: headers without names, frames, pixels. What is malformed is absent or refused."""
