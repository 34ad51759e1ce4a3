"""A volume in, labels out: nnU-Net's answer without its pickles, threads and files."""
