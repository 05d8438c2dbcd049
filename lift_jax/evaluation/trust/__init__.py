"""How far answers can be trusted: temperature, unknown images and prediction sets."""
