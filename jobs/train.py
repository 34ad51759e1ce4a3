"""Train the DCNN with DDP.

ray job submit --working-dir . -- python jobs/train.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["train"], __doc__))
