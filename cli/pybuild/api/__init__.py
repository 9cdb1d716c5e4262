"""What is asked of pybuild and what it tells: requests, events, their JSON. Pure, and cheap to import."""
