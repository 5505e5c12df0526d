"""Who is evaluated: patients, targets, splits and their audit."""
