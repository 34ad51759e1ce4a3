"""nnU-Net's own training, on one's own scans."""
