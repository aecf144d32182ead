"""The sentences of the command, in English and Simplified Chinese."""

from modelyard.cli.words.deployments import DEPLOYMENTS
from modelyard.cli.words.models import MODELS
from modelyard.cli.words.operation import OPERATION
from modelyard.cli.words.steps import STEPS

# key -> (English, 简体中文); values stand in braces
WORDS: dict[str, tuple[str, str]] = OPERATION | MODELS | DEPLOYMENTS

__all__ = ["STEPS", "WORDS"]
