"""What is predicted per slide: columns, objective, metrics and figures of each kind of target."""
