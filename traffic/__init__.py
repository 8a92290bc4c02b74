"""Open-loop senders, receivers and their schedules."""
