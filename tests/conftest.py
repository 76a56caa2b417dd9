"""What holds for all tests."""

from hypothesis import settings

# A deadline for an example would be a test of the machine's speed at that moment.
settings.register_profile("vmviz", deadline=None)
settings.load_profile("vmviz")
