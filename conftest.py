"""What all tests share: how examples are made up for those that are tried with many."""

from hypothesis import settings

# The same examples in every run, and as long as they take: a busy machine is no defect. To have others made up, and
# many of them: `--hypothesis-profile exploring`.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None, max_examples=3000)
settings.load_profile("repeatable")
