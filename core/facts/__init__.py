"""Facts from any source, as one record type: a file for each data set, read through the cells of a table."""
