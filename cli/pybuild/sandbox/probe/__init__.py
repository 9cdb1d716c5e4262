"""What builds can do here, found out by doing it: each ability is tried in a process made for that, step by step."""
