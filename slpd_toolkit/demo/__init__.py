"""`slpd demo`: synthetic slides with a planted truth, and the three stages on them."""
