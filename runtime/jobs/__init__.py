"""Generate a text for each row of a file, resumably."""
