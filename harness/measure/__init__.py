"""What an operating point costs (compute, seconds, bytes) and on which machine; imports nothing of ours."""
