"""The IXI data set: its archive, its preparation, the paper's split, and phantoms in its layout."""
