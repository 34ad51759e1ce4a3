"""What `spineage` can do beside the stages: make, look, check, import and train."""
