"""The teacher cache: what a teacher gives for a data set, computed in one pass and read back by the samples' ids.

:func:`teacher_cache` opens the cache of a run's teacher, or makes it. See :mod:`stillhouse.teachers.cache.files` for what
lies on the disk and :mod:`stillhouse.teachers.cache.key` for what makes two caches the same.

Imports: loop, data and below.
Public: this package.
"""

from __future__ import annotations

from stillhouse.teachers.cache.access import teacher_cache
from stillhouse.teachers.cache.files import TeacherCache
from stillhouse.teachers.cache.moments import Moments
from stillhouse.teachers.cache.reader import OUTPUT, reading, tap_name
from stillhouse.teachers.cache.spec import CacheSpec, Pool

__all__ = ["OUTPUT", "CacheSpec", "Moments", "Pool", "TeacherCache", "reading", "tap_name", "teacher_cache"]
