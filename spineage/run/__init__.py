"""What every run needs: the study and its addresses, stages in order, checks before work."""
