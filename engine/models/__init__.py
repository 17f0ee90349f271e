"""Models: description, parameters, initial values, dropout, and the NumPy reference of their layers and cells."""
