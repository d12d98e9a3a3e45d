"""Objectives: pure functions on arrays that return a value per example or per logit.

The caller reduces.
"""
