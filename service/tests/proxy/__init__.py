"""Tests of the model proxy: a real server, real clients, engines real or made to misbehave."""
