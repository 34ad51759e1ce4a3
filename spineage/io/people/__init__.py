"""Tables about people: read with distrust, joined by keyed hashes."""
