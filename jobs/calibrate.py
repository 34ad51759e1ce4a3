"""Fit the age-bias correction and publish the model bundle.

ray job submit --working-dir . -- python jobs/calibrate.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["calibrate"], __doc__))
