"""Where a teacher comes from, and what it said before. Imports: loop, data, models, tasks and below."""
