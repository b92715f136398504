"""Questions and commands to the gateway: about the resources that it owns, and to seal with another key what it keeps."""

from __future__ import annotations

from shared.asking import Questions
from shared.owners.answering import questions_of, rotate_keys
from shared.questions.rotation import RotateCredentials

QUESTIONS: Questions = {**questions_of("gateway"), RotateCredentials: rotate_keys}
