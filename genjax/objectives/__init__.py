"""Objectives: pure functions on arrays. Each gives per-example values; the caller reduces."""
