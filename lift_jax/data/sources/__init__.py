"""Sources: a module for each kind of data set that `data.name` can choose."""
