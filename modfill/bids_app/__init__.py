"""modfill as a BIDS App: the arguments that every BIDS App takes."""
