"""Phantom exams as real DICOM."""
