"""From labels to a named spine: canal, discs, vertebrae, levels, and whether they can be believed."""
