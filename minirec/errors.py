"""Errors that a user can fix: one sentence with what was found, where, and what to do."""


class MiniRecError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class ConfigError(MiniRecError):
    """A setting that is unknown, of a wrong type, or impossible together with another."""


class CorpusError(MiniRecError):
    """Input files that cannot become a corpus."""


class ArtifactError(MiniRecError):
    """An artifact that is missing, damaged, or was made with other settings."""


class DamageError(ArtifactError):
    """An artifact that is missing, or whose bytes are not those that were written.

    An artifact that could not be read for another reason, such as missing rights, may be undamaged.
    Only after this error an artifact is removed and made again.
    """


class DiskError(MiniRecError):
    """A disk that is full while something is written."""


class FeatureError(MiniRecError, ValueError):
    """Features that lack what a selection method needs."""


class EngineError(MiniRecError):
    """A rollout engine or training worker that died or exceeded its deadline."""
