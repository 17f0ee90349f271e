"""Compile the layers around the recurrent ones: embedding, linear and output loss."""
