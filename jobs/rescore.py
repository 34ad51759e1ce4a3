"""The population job: find new exams, then a spine age for every scan that has none under this model.

ray job submit --working-dir . -- python jobs/rescore.py --study study.yaml

Kill it and submit it again: only what is missing is done.
"""

import sys

from spineage.flow import RESCORE
from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(RESCORE, __doc__))
