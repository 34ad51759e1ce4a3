"""The whole road, from DICOM to the report.

ray job submit --working-dir . -- python jobs/run.py --study study.yaml
"""

import sys

from spineage.flow import ROAD
from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job([stage.name for stage in ROAD], __doc__))
