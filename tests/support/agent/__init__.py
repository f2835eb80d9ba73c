"""An agent to test with: a program of our own that does to both sides what nima-core does.

It runs in a process and an interpreter of its own, with the engine of its release, and knows nothing of nimad. In a
test, `driver.Agent` starts it; `steps` has what it can be told to do.

>>> with Agent(engine, source, target) as agent:
...     agent.do(Store("turn_1", at=1_700_000_000_000))
...     agent.do(Recall((("turn_1", "input"),), at=1_700_000_100_000))
...     agent.do(Visible())
"""
