"""Errors that a user can fix; the message says what was found, where, and what to do."""


class MiniRecError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class ConfigError(MiniRecError):
    """A setting that is unknown, has a wrong type, or contradicts another."""


class CorpusError(MiniRecError):
    """Input files that cannot become a corpus."""


class ArtifactError(MiniRecError):
    """An artifact that is missing, damaged, or made with other settings."""


class DamageError(ArtifactError):
    """An artifact that is missing or corrupted; only such an artifact is deleted and made again.

    An artifact that cannot be read for another reason, such as permissions, may be undamaged.
    """


class DiskError(MiniRecError):
    """A full disk."""


class FeatureError(MiniRecError, ValueError):
    """Features without the columns or values that a selection method needs."""


class EngineError(MiniRecError):
    """A rollout engine or training worker that died or exceeded its deadline."""
