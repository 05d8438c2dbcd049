"""Images and labels: what each data set is, how an image is cut, in which order batches come."""
