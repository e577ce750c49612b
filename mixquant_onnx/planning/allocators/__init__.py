"""Pure functions from a table of errors to the scheme of each site."""
