"""Prediction tasks: columns, objective, metrics and figures of each kind of target."""
