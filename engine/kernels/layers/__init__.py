"""Compiled layers around the recurrent ones: embedding, first layer, linear, output loss."""
