"""What the report says: from the study's tables to words, tables and figures. No disk, no cluster.

`evidence` is all it knows; each other file turns evidence into chapters, in the order of the page.
"""
