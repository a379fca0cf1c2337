"""What a HAT step costs, against the same network without HAT and against a textbook transcription of the paper."""
