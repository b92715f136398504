"""Questions and commands to the gateway: about the resources that it owns."""

from __future__ import annotations

from shared.asking import Questions
from shared.owners.answering import questions_of

QUESTIONS: Questions = questions_of("gateway")
