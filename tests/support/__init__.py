"""What the tests share: memories, runs, services, agents and workers that misbehave."""
