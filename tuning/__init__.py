"""Search for the settings of a training: studies of many short trainings, and the range test of a learning rate.

Imports the engine and the twin's ``TRAINABLES``; Optuna only where a study is opened.
"""
