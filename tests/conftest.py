"""Settings of all tests."""

from hypothesis import settings

# A busy machine is no fault of the code: pytest's own timeout is the limit.
settings.register_profile("minirec", deadline=None)
settings.load_profile("minirec")
