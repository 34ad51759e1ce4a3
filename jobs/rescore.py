"""The population job: find new exams, then a spine age for every scan that has none under this model.

ray job submit --working-dir . -- python jobs/rescore.py --study study.yaml

Kill it and submit it again: only what is missing is done.
"""

import sys

from spineage.stages.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["ingest", "score"], __doc__))
