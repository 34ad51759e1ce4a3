"""What lies in the input: listed, unpacked, bounded, sealed."""
