"""`simulate`: from a batch of initial states to a trajectory."""
