"""Hyper-parameter search.

ray job submit --working-dir . -- python jobs/sweep.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["sweep"], __doc__))
