"""The model that is trained: loading, sampling, log-probs."""

import os

# GNU OpenMP lets waiting threads spin. Where another program uses a core as well, the spinning takes the
# very time that is waited for, and a step of 2 s was seen to take 30 s. On a quiet machine the short spin
# costs sampling a sixth (docs/speed.md). It counts only if torch has not been imported yet.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
