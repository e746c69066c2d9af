"""The simulator of routing: arrival traces over simulated engines, for each policy, with the router's own functions.

`service/bench/simulate` prints the tables. What routes here is what routes in the proxy (`Route`, `Gate`, the fair
queue, the breaker), with the clock of the simulation; only the engines and the callers are made up. The same seed gives
the same figures.
"""
