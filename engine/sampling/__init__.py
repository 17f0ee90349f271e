"""Define how a token is chosen: random numbers, filters and rules that every engine and host shares."""
