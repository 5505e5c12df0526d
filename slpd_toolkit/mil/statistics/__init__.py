"""How certain the results are: intervals, paired tests, comparisons, and the result tables."""
