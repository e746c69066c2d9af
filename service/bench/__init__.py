"""The benchmark: the model proxy beside other gateways, on one core, under the same load in the same run.

`service/bench/run` prints the table, `service/bench/plot` puts it and a plot of it into the docs,
`service/bench/profile` says where the proxy's time goes. Linux only: the load and the engine are built on epoll, and
processes are pinned to cores.
"""
