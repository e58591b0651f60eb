"""A simulation of how a runtime scales: with the chart's values, and with upstream's in the same run."""
