"""What is predicted per slide: columns, likelihood and metrics of each kind of target."""
