"""From a raw prediction to the gap: bias, intervals, refusals, accuracy, and what goes with the gap."""
