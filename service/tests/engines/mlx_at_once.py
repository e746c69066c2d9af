"""Tell how many contexts a batch of mlx_lm holds at the most. Needs: mlx_lm.

usage: mlx_at_once.py FOLDER COMPLETIONS PROMPTS   (FOLDER has a model; there are more requests than it takes)
"""

import sys
from typing import Any

from mlx_lm import load
from mlx_lm.generate import BatchGenerator

REQUESTS = 40
LENGTHS, REPLIES = (2, 40, 80), (3, 60, 120)
STEP = 4  # tokens of a prompt that are read in one go, so that prompts take a while


def main(folder: str, completions: int, prompts: int) -> int:
    """Have all requests answered, and return how many were held together."""
    model: Any = load(folder)[0]
    batch: Any = BatchGenerator(
        model, completion_batch_size=completions, prefill_batch_size=prompts, prefill_step_size=STEP
    )
    batch.insert(
        [[5] * LENGTHS[place % len(LENGTHS)] for place in range(REQUESTS)],
        max_tokens=[REPLIES[place // 2 % len(REPLIES)] for place in range(REQUESTS)],
    )
    most, left = 0, REQUESTS
    while left:
        left -= sum(one.finish_reason is not None for one in batch.next()[1])
        most = max(most, len(batch._prompt_batch) + len(batch._generation_batch))  # nothing else tells
    batch.close()
    return most


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))}\n")
