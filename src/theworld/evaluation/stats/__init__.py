"""Statistics of scores: intervals, tests, comparisons, calibration, baselines."""
