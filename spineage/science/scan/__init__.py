"""From headers to one volume: which series are sagittal T2 of the spine, and how stations become a scan."""
