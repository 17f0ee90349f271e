"""Schedule many texts over the slots of a model."""
