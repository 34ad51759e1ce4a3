"""score: a spine age and a gap for every scan."""
