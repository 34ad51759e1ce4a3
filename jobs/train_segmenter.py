"""Train a segmenter on the cluster: nnU-Net's own training, a fold on each GPU; see `--help`.

ray job submit --working-dir . -- python jobs/train_segmenter.py --out weights --work /shared/spine \\
    --images /shared/images --labels /shared/labels --schema totalspineseg --workers 5 --gpu
"""

import sys

from spineage.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train-segmenter")
    main()
