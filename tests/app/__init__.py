"""Tests of ``m2ib-app``: questions, answers, the process, and the command."""
