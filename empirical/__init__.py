"""The language-model flow: the experiment on a transformer, pretrained here or published."""

import os

# Large tensors take large pages of memory (Linux): half of a step's page faults go away. PyTorch reads this when it is
# imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
