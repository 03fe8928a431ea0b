"""The teacher cache: what a teacher gives for a data set, computed in one pass and read back by the samples' ids.

:func:`teacher_cache` opens the cache of a run's teacher, or makes it. See :mod:`stillhouse.teachers.cache.files` for what
lies on the disk and :mod:`stillhouse.teachers.cache.key` for what makes two caches the same.
"""

from __future__ import annotations

from stillhouse.teachers.cache.access import teacher_cache
from stillhouse.teachers.cache.files import TeacherCache
from stillhouse.teachers.cache.moments import Moments
from stillhouse.teachers.cache.spec import CacheSpec

__all__ = ["CacheSpec", "Moments", "TeacherCache", "teacher_cache"]
