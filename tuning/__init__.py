"""Search for settings: studies of many short training runs, and the learning-rate range test.

Optuna is imported only when a study is opened.
"""
