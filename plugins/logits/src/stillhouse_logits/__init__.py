"""stillhouse-logits: matches the outputs of student and teacher at a temperature."""

from __future__ import annotations

from stillhouse_logits.divergence import soft_target_divergence
from stillhouse_logits.plugin import Logits

__all__ = ["Logits", "soft_target_divergence"]
