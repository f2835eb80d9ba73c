"""The doctor's checks: each looks at one thing, and says what it found and which command mends it."""
