"""Make the network's input of every scan that has none yet.

ray job submit --working-dir . -- python jobs/prepare.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["prepare"], __doc__))
