"""What a candidate of a weight costs the network: the sensitivities that a budget is spent by."""
