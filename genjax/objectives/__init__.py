"""Objectives: pure functions on arrays that return a value per example; the caller reduces."""
