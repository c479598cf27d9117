"""Measures a candidate's outputs against the reference's and decides by a policy: pure functions of arrays.

Imports the standard library, numpy and scipy only. What crosses its border is a frozen dataclass or an enum of plain
JSON values; an undefined number is None, never NaN. Start at `comparison.Comparison` and `verdict.decide`.
"""
