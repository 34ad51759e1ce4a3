"""Find every sagittal T2 spine scan of an archive: the first job on new data.

ray job submit --working-dir . -- python jobs/ingest.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["ingest"], __doc__))
