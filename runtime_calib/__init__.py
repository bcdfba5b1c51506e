"""Running models: sessions, calibration data, collecting moments, comparing and timing."""
