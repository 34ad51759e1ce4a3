"""The network that draws the spine: the only room that imports nnunetv2."""
