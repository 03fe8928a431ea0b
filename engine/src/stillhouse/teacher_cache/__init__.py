"""The teacher cache: what a teacher gives for a data set, computed in one pass and read back by the samples' ids.

:func:`teacher_cache` opens the cache of a run's teacher, or makes it. See :mod:`stillhouse.teacher_cache.files` for what
lies on the disk and :mod:`stillhouse.teacher_cache.key` for what makes two caches the same.
"""

from __future__ import annotations

from stillhouse.teacher_cache.files import TeacherCache
from stillhouse.teacher_cache.moments import Moments
from stillhouse.teacher_cache.opening import teacher_cache
from stillhouse.teacher_cache.spec import CacheSpec

__all__ = ["CacheSpec", "Moments", "TeacherCache", "teacher_cache"]
