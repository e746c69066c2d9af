"""What the router judges by, and how: pure functions of what is known, with no I/O and no clock.

Times are those of one monotonic clock, in seconds; sizes are bytes of a request's body, which are known unread.
`service/bench/simulate` shows what each is worth.
"""
